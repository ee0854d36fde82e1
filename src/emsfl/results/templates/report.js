"use strict";
(async () => {
  const byId = (id) => document.getElementById(id);
  const charts = JSON.parse(byId("charts").textContent);
  const boxes = [...document.querySelectorAll(".chips input")];
  const methodSelect = byId("timeline-method");
  const daySelect = byId("timeline-day");

  async function loadPlotly() {
    const packed = Uint8Array.from(atob(byId("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // "$name" stands for the CSS variable "--name", which follows light and dark mode.
  function resolved(value, style) {
    if (typeof value === "string" && value.startsWith("$")) {
      return style.getPropertyValue("--" + value.slice(1)).trim();
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, resolved(item, style)])
      );
    }
    return value;
  }

  function shown(name, method) {
    if (method === undefined) return true;
    if (name === "contacts") return methodSelect !== null && method === methodSelect.value;
    return boxes.some((box) => box.dataset.method === method && box.checked);
  }

  function draw(name) {
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = resolved(charts[name], style);
    for (const trace of data) trace.visible = shown(name, trace.meta);
    // A finger on a chart scrolls the page; a mouse zooms, and a double click zooms out.
    layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
    if (name === "contacts" && daySelect !== null && daySelect.value !== "") {
      const start = 24 * Number(daySelect.value);
      layout.xaxis.range = [start, Math.min(start + 24, layout.xaxis.range[1])];
      layout.xaxis.dtick = 6;
    }
    if (matchMedia("(max-width: 760px)").matches) {
      layout.font.size = 12;
      if (name === "contacts") layout.yaxis.tickfont = { size: 11 };
    }
    Plotly.react("chart-" + name, data, layout, { responsive: true, displayModeBar: false });
  }

  const drawAll = () => Object.keys(charts).forEach(draw);

  if (typeof DecompressionStream === "undefined") return;
  document.documentElement.classList.remove("no-charts");
  await loadPlotly();
  if (daySelect !== null && matchMedia("(max-width: 760px)").matches) daySelect.value = "0";
  drawAll();
  boxes.forEach((box) => box.addEventListener("change", drawAll));
  for (const select of [methodSelect, daySelect]) {
    select?.addEventListener("change", () => draw("contacts"));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
