"""Make a module around given tensors, many times over, without building it anew each time."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def stamp(template: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a module like `template` whose parameters and buffers are the tensors of `state`.

    Modules and hooks of the copy are its own, so that any number of copies may live at once; it
    takes microseconds per submodule, where a constructor takes milliseconds. Whatever is no state
    (settings, buffers that are not saved) is the template's.

    Args:
        template: never run, changed or trained itself; its tensors may lie on the meta device.
        state: exactly the names of `template.state_dict()`, with the same shapes.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
    """
    expected = template.state_dict()
    if expected.keys() != state.keys():
        wrong = sorted(expected.keys() ^ state.keys())
        raise ValueError(f"the state does not fit {type(template).__name__}: {wrong}")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"{name} has shape {list(state[name].shape)}, not {list(tensor.shape)}"
            )
    return _copy(template, "", state)


def _copy(module: nn.Module, prefix: str, state: Mapping[str, Tensor]) -> nn.Module:
    copied = object.__new__(type(module))
    copied.__dict__.update(
        {
            key: value.copy() if isinstance(value, dict | set) else value
            for key, value in module.__dict__.items()
        }
    )
    for name, parameter in module._parameters.items():
        if parameter is not None:
            tensor = state[prefix + name]
            copied._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
    for name in module._buffers:
        if prefix + name in state:
            copied._buffers[name] = state[prefix + name]
    for name, child in module._modules.items():
        if child is not None:
            copied._modules[name] = _copy(child, f"{prefix}{name}.", state)
    return copied
