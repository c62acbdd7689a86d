// The chain viewer: one chain at a time from the page's own JSON. Text enters the page only as textContent.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const root = document.getElementById("viewer");
  const part = (name) => root.querySelector(name);
  const chainText = part(".chain"), card = part(".card"), picker = part("select"), body = part("tbody");
  const outcomes = ["follow", "repaired", "last_number", "other", "stay"];
  const sites = { before: "before the chain", ahead: "ahead", predicting: "at the literal" };
  const { make } = frame;
  let visible = data.chains, at = 0, filter = "", chosen = "";

  const known = (value) => value !== undefined && value !== null;
  const verdictOf = (name) => data.verdicts[name] || { letter: "?", class: "v-unscored", meaning: "", used: null };
  const decimal = (value) => {
    if (typeof value !== "number") return "–";
    const text = value.toFixed(2);
    return Math.abs(value) < 1 && Math.abs(+text) < 1 && +text !== 0 ? text.replace("0.", ".") : String(+text);
  };
  const percent = (value) => `${Math.round(100 * value)}%`;
  const rowOf = (step) => visible[at].steps.find((row) => row.step === step);
  const contains = (chain, wanted) => wanted === "wrong answer" ? chain.correct === false
    : chain.steps.some((row) => (row.verdict || "unscored") === wanted);

  function chip(name) {
    const style = verdictOf(name), node = make("span", `chip ${style.class}`);
    node.append(make("b", "", style.letter), make("span", "", name || "unscored"));
    return node;
  }

  // ---- the evidence card -------------------------------------------------------------------------------------
  function gauge(name, value, { low, high, control, none } = {}) {
    const line = make("div", "gauge");
    line.append(make("span", "", name));
    if (!known(value)) {
      line.append(make("span", "none", none || "not measured"));
      return line;
    }
    const place = (number) => 100 * Math.min(1, Math.max(0, number));
    const meter = make("span", "meter");
    const mark = (className, left, width) => {
      const node = make("i", className);
      node.style.left = `${left}%`;
      if (width !== undefined) node.style.width = `${width}%`;
      meter.append(node);
    };
    if (known(low) && known(high)) mark("band", place(low), place(high) - place(low));
    if (known(control)) mark("tick", place(control));
    mark("dot", place(value));
    meter.setAttribute("role", "img");
    meter.setAttribute("aria-label", [`${name} ${decimal(value)}`,
      known(low) && known(high) ? `interval ${decimal(low)} to ${decimal(high)}` : "",
      known(control) ? `control ${decimal(control)}` : ""].filter(Boolean).join(", "));
    meter.title = meter.getAttribute("aria-label");
    line.append(meter, make("output", "", decimal(value)));
    return line;
  }

  function facts(pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) {
      if (!known(value) || value === "") continue;
      const text = make("dd", "", value);
      text.dir = "auto";
      list.append(make("dt", "", name), text);
    }
    return list;
  }

  function outcomeBar(row) {
    const found = outcomes.filter((name) => row[name] > 0);
    if (!found.length) return [];
    const bar = make("div", "outcome-bar"), key = make("div", "outcome-key");
    for (const name of found) {
      const share = make("span", `o-${name}`), item = make("span");
      share.style.flexGrow = row[name];
      item.append(make("i", `o-${name}`), `${name.replace("_", " ")} ${percent(row[name])}`);
      bar.append(share);
      key.append(item);
    }
    return [make("h4", "", "When the value is replaced, the answer"), bar, key];
  }

  function when(row) {
    if (!row.when) return "not measured";
    const lead = known(row.lead_tokens) && row.when !== "not-computed" ? `, ${row.lead_tokens} tokens ahead` : "";
    return (data.when[row.when] || row.when) + (row.lead_tokens === 0 ? "" : lead);
  }

  function against(value, stated) {
    return known(value) ? `${value} ${value === stated ? "✓" : "≠ stated"}` : "unknown";
  }

  function showCard(step) {
    const row = rowOf(step);
    card.replaceChildren();
    if (!row) {
      card.append(make("p", "meaning", "No value of this chain was located."));
      return;
    }
    const open = make("button", "toggle", card.classList.contains("open") ? "Less" : "Evidence");
    open.type = "button";
    open.setAttribute("aria-expanded", String(card.classList.contains("open")));
    open.addEventListener("click", () => { opened(!card.classList.contains("open")); part(".toggle").focus({ preventScroll: true }); });
    const head = make("div", "head"), stated = make("div", "stated"), value = make("bdi", "", known(row.stated) ? row.stated : "–");
    head.append(make("bdi", "", `step ${row.step}`), chip(row.verdict), open);
    stated.append(value);
    const meaning = verdictOf(row.verdict).meaning + (row.final ? " The answer reads this step out; it stays out of the chain score." : "");
    card.append(head, stated, make("p", "meaning", meaning));
    if (row.unscored_reason) card.append(make("p", "reason", row.unscored_reason));
    card.append(
      facts([
        ["true value", against(row.true_value, row.stated)],
        ["local value", against(row.local_value, row.stated)],
        ["determined", when(row)],
      ]),
      make("h4", "", "Evidence, 0 to 1"),
      gauge("used U", row.used, { low: row.used_low, high: row.used_high, control: row.used_control }),
      gauge("computed D", row.computed, { low: row.computed_low, high: row.computed_high, control: row.computed_control }),
      gauge("score", row.score, { none: row.final ? "none: readout" : "" }),
      make("p", "gauge-note", "Dot: value. Band: 95% interval (U over replacements, D over problems). Tick: control."),
      ...outcomeBar(row));
    const more = facts([
      ["competence", known(row.competence) ? percent(row.competence) : ""],
      ["next step restates it", known(row.used_read) ? percent(row.used_read) : ""],
      ["replacements", row.used_n],
      ["their plausibility", known(row.plausibility) ? `${row.plausibility.toFixed(1)} nats` : ""],
      ["placebo where determined", known(row.lead_control) ? `R = ${decimal(row.lead_control)}` : ""],
      ["D is best", sites[row.computed_site] || row.computed_site],
      ["state agrees with", row.agreement],
      ["needed by the answer", known(row.needed) ? (row.needed ? "yes" : "no") : ""],
    ]);
    if (more.childElementCount) card.append(make("h4", "", "More"), more);
    const words = make("a", "words", "What these words mean");
    words.href = "#legend";
    card.append(words);
  }
  // On a phone the card is a strip at the foot of the screen until it is opened; elsewhere all of it is always there.
  function opened(wanted) {
    card.classList.toggle("open", wanted);
    showCard(chosen);
  }

  // ---- one chain ---------------------------------------------------------------------------------------------
  function mark(step, className) {
    for (const node of root.querySelectorAll("[data-step]"))
      node.classList.toggle(className, node.dataset.step === step && (className !== "near" || node.tagName === "SPAN"));
  }
  function choose(step) {
    chosen = step;
    mark(step, "chosen");
    mark(step, "near");
    showCard(step);
  }
  function peek(step) {
    mark(step, "near");
    showCard(step);
  }

  function drawText(chain) {
    chainText.replaceChildren();
    for (const [text, step, kind] of chain.pieces) {
      if (!step) {
        chainText.append(text);
        continue;
      }
      const row = rowOf(step) || {}, style = verdictOf(row.verdict);
      const node = make("span", `${kind} ${style.class}`, text);
      node.dataset.step = step;
      if (kind === "value") {
        node.tabIndex = 0;
        node.setAttribute("role", "button");
        node.setAttribute("aria-label", `${text}, step ${step}, ${row.verdict || "unscored"}`);
        if (filter && filter !== "wrong answer" && row.verdict !== filter) node.classList.add("dim");
        node.append(make("sup", "", style.letter));
        node.addEventListener("focus", () => choose(step));
        node.addEventListener("click", () => choose(step));
        node.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          choose(step);
          opened(true);
          card.focus();
        });
      }
      node.addEventListener("mouseenter", () => peek(step));
      node.addEventListener("mouseleave", () => peek(chosen));
      chainText.append(node);
    }
    if (chain.cut) chainText.append(make("small", "", ` … ${chain.cut} more characters are in chains.jsonl`));
  }

  function drawSteps(chain) {
    body.replaceChildren();
    for (const row of chain.steps) {
      const line = make("tr"), name = make("td"), button = make("button", "", row.step), verdict = make("td");
      line.dataset.step = row.step;
      button.type = "button";
      name.append(button);
      verdict.append(chip(row.verdict));
      const stated = make("td", "", known(row.stated) ? row.stated : "–");
      stated.dir = "auto";
      line.append(name, stated, verdict, make("td", "", row.when ? data.when[row.when] || row.when : "–"));
      for (const key of ["used", "computed", "score"]) line.append(make("td", "number", decimal(row[key])));
      line.addEventListener("click", () => choose(row.step));
      body.append(line);
    }
  }

  // What leaves as CSV is everything that is known of a step, not only what the table shows.
  function saveSteps(chains, name) {
    const keys = [...new Set(chains.flatMap((chain) => chain.steps.flatMap(Object.keys)))];
    const lines = chains.flatMap((chain) => chain.steps.map((row) => [chain.id, ...keys.map((key) => row[key])]));
    frame.saveTable([["chain", ...keys], ...lines], name);
  }

  function drawAnswer(chain) {
    const line = part(".answer"), answer = make("bdi", "", known(chain.answer) ? chain.answer : "none");
    const bold = make("b");
    bold.append(answer);
    line.replaceChildren("Answer stated: ", bold);
    if (chain.correct === true) line.append(" ✓ right");
    if (chain.correct === false) line.append(" ✗ wrong, the true answer is ", make("bdi", "", chain.truth));
    if (!chain.finished) line.append(". The chain did not end before the limit of tokens.");
  }

  function show(index, remember) {
    at = index;
    const chain = visible[at];
    picker.selectedIndex = at;
    part(".place").textContent = `${at + 1} of ${visible.length}`;
    for (const button of root.querySelectorAll(".pager .step")) {
      const next = at + Number(button.dataset.move);
      button.disabled = next < 0 || next >= visible.length;
    }
    part(".question").textContent = chain.prompt;
    drawText(chain);
    drawAnswer(chain);
    drawSteps(chain);
    const wanted = chain.steps.find((row) => row.verdict === filter) || chain.steps[0];
    choose(wanted ? wanted.step : "");
    part(".link").setAttribute("aria-label", `Copy the link to chain ${chain.id}`);
    if (remember) {
      try { history.replaceState(null, "", linkTo(chain)); } catch { /* a sandboxed page */ }
    }
  }

  // ---- filter, list, deep link -------------------------------------------------------------------------------
  function setFilter(wanted, remember) {
    const before = visible[at];
    filter = wanted;
    visible = wanted ? data.chains.filter((chain) => contains(chain, wanted)) : data.chains;
    picker.replaceChildren(...visible.map((chain) => {
      const option = make("option", "", chain.id);
      option.dir = "auto";
      return option;
    }));
    for (const button of part(".filters").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.verdict === wanted));
    show(Math.max(0, visible.indexOf(before)), remember);
  }

  function drawFilters() {
    const add = (name, count) => {
      const button = make("button");
      button.type = "button";
      button.dataset.verdict = name;
      button.append(name in data.verdicts ? chip(name) : name || "all chains", ` ${count}`);
      button.addEventListener("click", () => setFilter(name, true));
      part(".filters").append(button);
    };
    add("", data.chains.length);
    for (const name of [...Object.keys(data.verdicts), "wrong answer"]) {
      const count = data.chains.filter((chain) => contains(chain, name)).length;
      if (count) add(name, count);
    }
  }

  function followLink() {
    if (!location.hash.startsWith("#chain-")) return false;
    let id = location.hash.slice(7);
    try { id = decodeURIComponent(id); } catch { /* not ours: compared as it is */ }
    const index = data.chains.findIndex((chain) => chain.id === id);
    if (index < 0) return false;
    if (!visible.includes(data.chains[index])) setFilter("", false);
    show(visible.indexOf(data.chains[index]), false);
    root.scrollIntoView();
    root.focus({ preventScroll: true });
    return true;
  }

  root.hidden = false;
  if (!data.chains.length) {
    root.replaceChildren(make("p", "missing", "not measured: the audit holds no chains"));
    return;
  }
  drawFilters();
  setFilter("", false);
  followLink();
  window.addEventListener("hashchange", followLink);
  picker.addEventListener("change", () => show(picker.selectedIndex, true));
  for (const button of root.querySelectorAll(".pager .step"))
    button.addEventListener("click", () => show(at + Number(button.dataset.move), true));
  const linkTo = (chain) => `#chain-${encodeURIComponent(chain.id)}`;
  part(".link").addEventListener("click", () => frame.copy(new URL(linkTo(visible[at]), location.href).href));
  part(".per-step").append(frame.tools(
    frame.button("CSV", "Save the steps of this chain as CSV", () => saveSteps([visible[at]], frame.bare(visible[at].id) || "chain")),
    frame.button("CSV of every chain", "Save the steps of every chain here as CSV", () => saveSteps(data.chains, "steps"))));

  function goBack() {
    if (card.contains(document.activeElement)) {
      card.classList.remove("open");
      showCard(chosen);
      const value = [...chainText.querySelectorAll(".value")].find((node) => node.dataset.step === chosen);
      (value || root).focus();
    } else if (card.classList.contains("open")) opened(false);
    else if (filter) {
      setFilter("", true);
      part(".filters button").focus({ preventScroll: true });
    }
  }
  // Letters are keys only while the focus is in here, so that nothing happens to who dictates or types elsewhere.
  root.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Escape") goBack();
    const move = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1 }[event.key];
    if (!move || event.target === picker || !visible[at + move]) return;
    event.preventDefault();
    show(at + move, true);
    if (!document.activeElement || document.activeElement === document.body) root.focus({ preventScroll: true });
  });
})();
