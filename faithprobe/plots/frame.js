// What every page can do: its tables leave as CSV, its sections can be linked to, its contents follow the reader.
const frame = (() => {
  "use strict";
  const bare = (text) => text.normalize("NFKD").replace(/[^\w.+-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 60);
  const title = bare(document.querySelector("h1")?.textContent || "faithprobe");
  const said = document.getElementById("said");
  let quiet = 0;

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) node.textContent = text;
    return node;
  }
  function button(text, label, action) {
    const node = make("button", "", text);
    node.type = "button";
    node.setAttribute("aria-label", label);
    node.title = label;
    node.addEventListener("click", action);
    return node;
  }
  function say(text) {
    clearTimeout(quiet);
    said.textContent = text;
    quiet = setTimeout(() => { said.textContent = ""; }, 4000);
  }
  function save(address, name) {
    const link = make("a");
    link.href = address;
    link.download = `${title}-${name}`;
    link.click();
    say(`Saved ${link.download}`);
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // an old browser, or a page in a frame that may not
      const field = make("textarea", "unseen", text), before = document.activeElement;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      before?.focus({ preventScroll: true });
      if (!done) return say(`The link is ${text}`);
    }
    return say("Link copied");
  }

  // ---- tables as CSV: RFC 4180, with a byte order mark, without which Excel takes UTF-8 for something else ----------
  const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?$/i;
  const formula = /^[\s\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/;
  function field(value) {
    const text = String(value ?? "").replace(/^[–—]$/, "").replace(/^\u2212(?=[\d.])/, "-");
    if (number.test(text) || text === "") return text;
    // A spreadsheet would run what begins like a formula, and this text may be a model's.
    return `"${(formula.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  }
  const csv = (lines) => `\ufeff${lines.map((line) => line.map(field).join(",")).join("\r\n")}\r\n`;
  function saveTable(lines, name) {
    const address = URL.createObjectURL(new Blob([csv(lines)], { type: "text/csv;charset=utf-8" }));
    save(address, `${name}.csv`);
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  }

  // A cell as it is read, without letters of verdicts and drawings. One text stays as it is, spaces and all.
  function words(node) {
    if (!node) return "";
    if (node.dataset.value) return node.dataset.value;
    if (node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) return node.textContent;
    const found = [], walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    while (walk.nextNode())
      if (!walk.currentNode.parentElement.closest(".chip > b, sup, .meter")) found.push(walk.currentNode.data.trim());
    return found.filter(Boolean).join(" ").replace(/\s+/g, " ");
  }
  const without = (node, small) => {
    const copied = node.cloneNode(true);
    for (const part of copied.querySelectorAll("small")) part.remove();
    return [words(copied), small.map(words).join("; ")];
  };
  // What stands small below a number, such as its interval, is a column of its own.
  function read(table) {
    if (table.dataset.rows) return JSON.parse(table.dataset.rows);
    const lines = [...table.rows].map((row) => [...row.cells]);
    const detailed = new Set();
    for (const cells of lines.slice(1)) cells.forEach((cell, i) => { if (cell.querySelector("small")) detailed.add(i); });
    return lines.map((cells, at) => cells.flatMap((cell, i) => {
      if (!detailed.has(i)) return [words(cell)];
      if (at === 0) return [words(cell), `${words(cell)}: detail`];
      return without(cell, [...cell.querySelectorAll("small")].filter((part) => !part.parentElement.closest("small")));
    }));
  }
  function tools(...buttons) {
    const row = make("p", "tools");
    row.append(...buttons);
    return row;
  }
  function plotBefore(node) {
    while (node && !node.classList.contains("plot")) node = node.previousElementSibling;
    return node?.id.replace("plot-", "");
  }
  const used = new Map();
  for (const table of document.querySelectorAll("table:not([data-own-csv])")) {
    const place = table.closest("section")?.id || "table";
    const kind = plotBefore(table.closest("details")) || place;
    const count = (used.get(kind) || 0) + 1, name = count > 1 ? `${kind}-${count}` : kind;
    used.set(kind, count);
    (table.closest(".scroll") || table).after(
      tools(button("CSV", "Save this table as CSV", () => saveTable(read(table), name))));
  }

  // ---- links and contents -------------------------------------------------------------------------------------
  for (const section of document.querySelectorAll("section[id]")) {
    const heading = section.querySelector("h2");
    if (!heading) continue;
    const link = make("a", "anchor", "#");
    link.href = `#${section.id}`;
    link.setAttribute("aria-label", `Copy the link to: ${heading.textContent}`);
    link.title = "Copy the link to this section";
    link.addEventListener("click", () => copy(new URL(link.getAttribute("href"), location.href).href));
    heading.append(" ", link);
  }
  const nav = document.querySelector("nav");
  const entries = new Map([...(nav?.querySelectorAll("a") || [])].map((link) => [link.getAttribute("href").slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      const link = entries.get(target.id);
      if (isIntersecting) {
        link.setAttribute("aria-current", "location");
        nav.scrollTo({ left: link.offsetLeft - nav.clientWidth / 2 + link.offsetWidth / 2 });
      } else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-25% 0px -74.9% 0px" });
  for (const id of entries.keys()) if (document.getElementById(id)) watch.observe(document.getElementById(id));

  return { make, button, tools, say, save, saveTable, copy, bare };
})();
