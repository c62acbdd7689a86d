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

  // One after another, with a breath between them: the page can be read and used meanwhile. Where theme or width change
  // meanwhile it begins again; their events alone would not tell, because Chromium drops the one of a change that a script
  // has already read.
  let running = Promise.resolve();
  const breath = () => new Promise((go) => setTimeout(go, 0));
  const look = () => `${dark.matches} ${narrow.matches}`;
  function draw() {
    running = running.then(drawAll);
    return running;
  }
  async function drawAll() {
    const begun = look();
    for (const [name, versions] of Object.entries(data.figures)) {
      if (look() !== begun) return drawAll();
      const place = document.getElementById(`plot-${name}`);
      const chosen = coloured(narrow.matches ? versions.narrow : versions.wide);
      chosen.layout.template = dark.matches ? data.dark : data.light;
      place.querySelector(".undrawn")?.remove();
      place.style.minHeight = `${chosen.layout.height}px`;
      await Plotly.react(place, chosen.data, chosen.layout, config);
      await breath();
    }
    return look() === begun ? undefined : drawAll();
  }

  // ---- a figure as a file: as on a wide, light page whatever the reader's is, under the heading that it stands below -----
  const headingOf = (place) => {
    let node = place;
    while (node && !node.matches("h2")) node = node.previousElementSibling;
    return (node || place.closest("section")?.querySelector("h2"))?.firstChild.textContent.trim() || "";
  };
  const escaped = (text) => text.replace(/[<>&]/g, (c) => `&#${c.charCodeAt(0)};`);

  async function save(name, format, place) {
    const { data: traces, layout } = structuredClone(data.figures[name].wide);
    const head = 72, height = layout.height + head, width = 1000;
    const under = document.querySelector("h1")?.textContent || "";
    Object.assign(layout, {
      template: data.light, width, height, paper_bgcolor: "#ffffff",
      margin: { ...data.light.layout.margin, ...layout.margin, t: (layout.margin?.t ?? data.light.layout.margin.t) + head },
      legend: { ...layout.legend, y: 1 - head / height },
      title: {
        text: `<b>${escaped(headingOf(place))}</b><br><span style="font-size:13px">${escaped(under)}</span>`,
        x: 0, xref: "container", xanchor: "left", y: 1 - 26 / height, yref: "container", yanchor: "top",
        font: { size: 17 }, pad: { l: 16 }, automargin: false,
      },
    });
    const scale = format === "png" ? 2 : 1;
    const address = await Plotly.toImage({ data: traces, layout, config: { staticPlot: true } }, { format, width, height, scale });
    frame.save(address, `${name}.${format}`);
  }

  function addTools() {
    for (const name of Object.keys(data.figures)) {
      const place = document.getElementById(`plot-${name}`), heading = headingOf(place);
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", `Figure: ${heading}`);
      const made = ["png", "svg"].map((format) => {
        const kind = format.toUpperCase();
        const button = frame.button(kind, `Save this figure as ${kind}: ${heading}`, async () => {
          button.disabled = true;
          try {
            await save(name, format, place);
          } catch (error) {
            frame.say(`This browser could not save the figure: ${error.message}`);
          }
          button.disabled = false;
          button.focus({ preventScroll: true });
        });
        return button;
      });
      place.after(frame.tools(...made));
    }
  }

  async function start() {
    try {
      await unpack();
      await draw();
      addTools();
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
