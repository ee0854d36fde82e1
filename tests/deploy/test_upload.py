"""Uploads: parts on disk, taken up again, and refused before they take room."""

import pytest

from emsfl.deploy.packets import manifest_of
from emsfl.deploy.upload import MAX_BAD_PARTS, Upload
from emsfl.errors import UpdateRefusedError

PACKET = bytes(range(256)) * 10
PART_BYTES = 1000
MANIFEST = manifest_of("north-1", PACKET, 100, PART_BYTES)


def part(index):
    return PACKET[index * PART_BYTES : (index + 1) * PART_BYTES]


@pytest.fixture
def upload(tmp_path):
    found = Upload(tmp_path / "incoming", PART_BYTES)
    found.want("north-1")
    return found


def test_an_upload_goes_on_in_another_life(upload):
    upload.take(MANIFEST, 0, part(0), len(PACKET))
    again = Upload(upload.folder, PART_BYTES)
    again.want("north-1")
    assert again.missing_part() == 0, "nothing is known before the manifest has come"
    again.take(MANIFEST, 0, part(0), len(PACKET))
    assert again.missing_part() == 1
    assert again.received_bytes == 0, "a part that the disk has is not counted again"
    for index in (1, 2):
        assert not again.is_over
        again.take(MANIFEST, index, part(index), len(PACKET))
    assert again.is_over
    assert again.read() == PACKET
    again.want("north-2")
    again.drop_others()
    assert list(again.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("manifest", "blob", "reason"),
    [
        (manifest_of("north-0", PACKET, 100, PART_BYTES), part(0), "not what was asked for"),
        (manifest_of("north-1", PACKET * 2, 100, PART_BYTES), part(0), "5120 bytes, where no"),
        (manifest_of("north-1", PACKET, 100, 500), part(0), "parts of 500 bytes"),
        (MANIFEST, part(0)[1:], "part 0 with 999 bytes"),
    ],
)
def test_what_is_wrong_takes_no_room(upload, manifest, blob, reason):
    for attempt in range(MAX_BAD_PARTS):
        assert upload.refusal is None
        with pytest.raises(UpdateRefusedError, match=reason):
            upload.take(manifest, 0, blob, len(PACKET))
        assert upload.num_bad == attempt + 1
    assert reason in upload.refusal
    assert upload.is_over
    assert not upload.folder.exists()


def test_a_packet_with_another_hash_is_refused(upload):
    for index in (0, 1):
        upload.take(MANIFEST, index, part(index), len(PACKET))
    with pytest.raises(UpdateRefusedError, match="hash"):
        upload.take(MANIFEST, 2, part(2)[::-1], len(PACKET))
    assert list(upload.folder.iterdir()) == []
