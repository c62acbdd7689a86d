// The figures: plotly.js is unpacked from the page itself and drawn in the theme and width of the reader.
(() => {
  "use strict";
  const state = document.documentElement.dataset;
  const data = JSON.parse(document.getElementById("figures-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 700px)");
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false, doubleClick: false };

  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly-gzip").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("plotly.js did not start");
  }

  // Dark blue is lost on a dark page: the theme names the colours that take its place.
  function coloured(version) {
    let text = JSON.stringify(version);
    if (dark.matches) for (const [from, to] of Object.entries(data.recolour)) text = text.replaceAll(from, to);
    return JSON.parse(text);
  }

  function draw() {
    const jobs = Object.entries(data.figures).map(([name, versions]) => {
      const place = document.getElementById(`plot-${name}`);
      const chosen = coloured(narrow.matches ? versions.narrow : versions.wide);
      chosen.layout.template = dark.matches ? data.dark : data.light;
      place.querySelector(".undrawn")?.remove();
      place.style.minHeight = `${chosen.layout.height}px`;
      return Plotly.react(place, chosen.data, chosen.layout, config);
    });
    return Promise.all(jobs);
  }

  async function start() {
    try {
      await unpack();
      await draw();
      state.figures = "drawn";
      for (const query of [dark, narrow]) query.addEventListener("change", draw);
    } catch (error) {
      state.figures = "unavailable";
      for (const note of document.querySelectorAll(".undrawn"))
        note.textContent = `This browser could not draw the figure (${error.message}). Its numbers are in the table below.`;
      for (const table of document.querySelectorAll(".plot + details")) table.open = true;
    }
  }
  // The text and the viewer come first: unpacking takes a moment.
  requestAnimationFrame(() => setTimeout(start, 0));
})();
