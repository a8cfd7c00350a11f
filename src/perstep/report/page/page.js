// What a page of perstep does beyond what stands in it: views, hints, the rounds of a part, a filter, charts that can be
// zoomed. Everything shown is in the page already or in its data; nothing is fetched, and no text becomes markup.
(() => {
  "use strict";
  const { h, render } = preact;
  const $ = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const views = all(".view");
  document.documentElement.classList.add("live");

  // Numbers as the page's tables have them: three significant digits, one unit.
  const UNITS = [["ns", 1], ["µs", 1e3], ["ms", 1e6], ["s", 1e9]];
  const unitOf = (ns) => UNITS.findLast(([, size]) => Math.abs(ns) >= size) ?? UNITS[0];
  const significant = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
  const duration = (ns) => { const [unit, size] = unitOf(ns); return `${significant(ns / size)} ${unit}`; };

  // State: the hash of the address, so that a link opens the same view.
  const state = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const view = given.get("view") ?? location.hash.match(/^#view-(\d)$/)?.[1];
    return {
      view: views.some((one) => one.dataset.view === view) ? view : "1",
      figure: given.get("figure"), part: given.get("part"), filter: given.get("filter") ?? "",
    };
  };
  const go = (change, replace = false) => {
    const kept = Object.entries({ ...state(), ...change }).filter(([name, value]) => value && !(name === "view" && value === "1"));
    const hash = `#${new URLSearchParams(kept)}`;
    history[replace ? "replaceState" : "pushState"](null, "", hash === "#" ? "#view=1" : hash);
    show();
  };

  // Hints: what is known of the thing under the pointer or in focus.
  const hint = $("#hint");
  const rowOf = (target) => target.closest?.("[data-hint]");
  const place = (x, y) => {
    const box = hint.getBoundingClientRect();
    hint.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    hint.style.top = `${y + 18 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 18}px`;
  };
  const showWords = ([name, ...lines], x, y) => {
    render([h("b", null, name), lines.join("\n")], hint);
    hint.hidden = false;
    place(x, y);
  };
  const showHint = (row, x, y) => showWords(row.dataset.hint.split("\n"), x, y);
  const hideHint = () => { hint.hidden = true; };
  document.addEventListener("pointermove", (event) => {
    if (event.target.closest?.(".chart")) return; // a chart says itself what is under the pointer
    const row = rowOf(event.target);
    if (row) showHint(row, event.clientX, event.clientY); else hideHint();
  });
  document.addEventListener("pointerleave", hideHint);
  addEventListener("scroll", hideHint, { passive: true });
  for (const title of all("svg title")) title.remove(); // they would be shown beside the hints

  // The rounds of a part.
  const spread = (run, sign) => {
    const outside = run.below + run.above;
    return `${run.name ? `${run.name} (${sign}): ` : ""}${run.steps.toLocaleString("en")} steps, median ${duration(run.p50)}${run.name ? "" : " (line)"}` + (outside ? `; ${outside.toLocaleString("en")} outside the middle 99 %` : "");
  };
  // The steps of a part as bars; those of a run it is compared with as an outline in the same bins, each run to its own share.
  const Histogram = ({ rounds }) => {
    const other = rounds.beside, wide = 360 / rounds.counts.length;
    const shares = (run) => run.counts.map((count) => count / run.steps);
    const most = Math.max(...shares(rounds), ...(other ? shares(other) : []));
    const at = (ns) => (360 * (ns - rounds.from)) / (rounds.to - rounds.from);
    const high = (share) => (100 * share) / most;
    return h("div", null,
      h("svg", { viewBox: "0 0 360 132", class: "drawing histogram", role: "img", "aria-label": "distribution over steps" },
        shares(rounds).map((share, bin) => h("rect", { x: bin * wide, width: Math.max(wide - 0.6, 0.4), y: 108 - high(share), height: high(share) })),
        other ? h("path", { class: "other", d: `M0 108${shares(other).map((share, bin) => `V${(108 - high(share)).toFixed(1)}H${((bin + 1) * wide).toFixed(1)}`).join("")}V108` }) : null,
        h("path", { class: "axis", d: "M0 108H360" }),
        h("path", { class: "median", d: `M${at(rounds.p50).toFixed(1)} 4V108` }),
        other ? h("path", { class: "other dashed", d: `M${at(other.p50).toFixed(1)} 4V108` }) : null,
        h("text", { x: 0, y: 124, class: "tick" }, duration(rounds.from)),
        h("text", { x: 360, y: 124, class: "tick", "text-anchor": "end" }, duration(rounds.to))),
      h("p", { class: "note" }, spread(rounds, "bars")),
      other ? h("p", { class: "note" }, spread(other, "outline")) : null);
  };
  // What stands between backticks is code.
  const prose = (words) => words.split(/`([^`]+)`/).map((piece, place) => (place % 2 ? h("code", null, piece) : piece));
  const beside = (part) => all("table.data").flatMap((table) => {
    const heads = all("thead tr > *", table).map((head) => head.textContent);
    return all("tbody tr", table).filter((row) => row.cells[0].textContent === part).map((row) => ({
      title: table.dataset.title,
      cells: [...row.cells].slice(1).map((cell, place) => [heads[place + 1], cell.textContent]).filter(([head, cell]) => head && cell),
    }));
  });
  // Figures of the same rounds have them once.
  const dataOf = (figure) => { const found = data.figures[figure] ?? {}; return data.figures[found.same] ?? found; };
  const Detail = ({ figure, part, said }) => {
    const found = dataOf(figure), rounds = found.rounds?.[part], kernels = found.kernels?.[part], noun = found.noun ?? "round";
    return h("section", { class: "detail", "aria-labelledby": "detail-name" },
      h("div", { class: "top" }, h("h2", { id: "detail-name", tabIndex: -1 }, part),
        h("button", { type: "button", onClick: close, "aria-label": "close" }, "× close")),
      found.about?.[part] ? h("p", { class: "note" }, "Inside it: ", ...prose(found.about[part]), ".") : null,
      h("ul", null, said.map((line) => h("li", null, line))),
      rounds ? h("div", { class: "two" },
        h("div", null, h("h3", null, "Distribution"), h(Histogram, { rounds })),
        h("div", null, h("h3", null, rounds.low ? `Drift: ${rounds.rounds.toLocaleString("en")} ${noun}s in ${rounds.ns.length} groups, median with lowest and highest` : noun === "step" ? "Drift: each step" : "Drift: the mean of each round"),
          h("div", { id: "drift", class: "chart" }), rounds.beside ? h("p", { class: "note" }, `Line: ${rounds.name}; dashed: ${rounds.beside.name}, which ran at another time.`) : null)) : h("p", { class: "note" }, "The rounds of this row are not in the page."),
      found.order?.length ? h("details", null, h("summary", null, "Order of the arms in each round"),
        h("p", { class: "note" }, found.order.map((order, round) => `${round + 1}: ${order}`).join(" · "))) : null,
      kernels ? h("div", null, h("h3", null, "Kernels"), h("ul", null, kernels.map(([name, ns]) => h("li", null, `${name}: ${duration(ns)} a step`)))) : null,
      beside(part).map(({ title, cells }) => h("div", null, h("h3", null, title), h("p", { class: "note" }, cells.map(([head, cell]) => `${head}: ${cell}`).join(" · ")))));
  };
  const close = () => {
    const { figure, part } = state();
    go({ figure: null, part: null });
    $(`#figure-${CSS.escape(figure)} tr[data-part="${CSS.escape(part)}"] button`)?.focus();
  };
  const detail = $("#detail");
  let drift = null, open = "", loading = true;
  const showPart = ({ figure, part }) => {
    const row = figure && part ? all(`#figure-${CSS.escape(figure)} [data-part]`).find((one) => one.dataset.part === part) : null;
    for (const one of all(".chosen")) one.classList.remove("chosen");
    const now = row ? `${figure}\n${part}` : "";
    if (row) row.classList.add("chosen");
    if (now === open) return;
    open = now;
    drift?.destroy();
    drift = null;
    if (!row) { render(null, detail); return; }
    $(`#figure-${CSS.escape(figure)}`).append(detail);
    render(h(Detail, { figure, part, said: row.dataset.hint.split("\n").slice(1), key: now }), detail);
    const { rounds, noun } = dataOf(figure);
    if (rounds?.[part]) drift = drawDrift($("#drift"), rounds[part], noun ?? "round");
    if (!loading) $("#detail-name").focus({ preventScroll: true });
    detail.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  };

  // Charts.
  const axis = (label) => ({ label, stroke: colour("--soft"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 }, labelSize: 22, font: "12px system-ui", labelFont: "12px system-ui" });
  // What a chart says of the place under the pointer, in the hint that everything else uses.
  const hintOf = (words) => (plot) => {
    const { idx, left, top } = plot.cursor;
    if (idx == null || left < 0) { hideHint(); return; }
    const box = plot.over.getBoundingClientRect();
    showWords(words(idx), box.left + left, box.top + top);
  };
  const widthOf = (at) => Math.max(260, at.clientWidth);
  // Which round a value is, or the one in the middle of its group.
  const placesOf = (run) => run.ns.map((_, place) => Math.round(1 + (place * (run.rounds - 1)) / Math.max(1, run.ns.length - 1)));
  const drawDrift = (at, rounds, noun) => {
    const runs = [rounds, rounds.beside].filter(Boolean);
    const [unit, size] = unitOf(Math.max(...runs.flatMap((run) => run.ns)));
    const columns = [], series = [{ label: noun }], bands = [];
    for (const run of runs) {
      const stroke = colour(run === rounds ? "--accent" : "--device"), grouped = Boolean(run.low);
      if (grouped) bands.push({ series: [series.length + 1, series.length + 2], fill: `${stroke}44` });
      series.push({ stroke, width: 1.4, dash: run === rounds ? undefined : [6, 4], points: { show: !grouped && run.ns.length < 80 } });
      const lines = [run.ns];
      if (grouped) { lines.push(run.high, run.low); series.push({ stroke: "transparent" }, { stroke: "transparent" }); }
      const places = placesOf(run);
      columns.push([places, ...lines.map((line) => line.map((ns) => ns / size))]);
    }
    const said = (run, x) => {
      const idx = placesOf(run).indexOf(x);
      if (idx < 0) return [];
      return [`${run.name ? `${run.name}: ` : ""}${duration(run.ns[idx])}`, ...(run.low ? [`lowest ${duration(run.low[idx])}`, `highest ${duration(run.high[idx])}`] : [])];
    };
    const joined = uPlot.join(columns);
    return new uPlot({
      width: widthOf(at), height: 190, scales: { x: { time: false } },
      axes: [axis(noun), { ...axis(unit), size: 58 }], legend: { show: false }, cursor: { drag: { x: true, y: false } },
      hooks: { setCursor: [hintOf((idx) => [`${noun} ${joined[0][idx]}`, ...runs.flatMap((run) => said(run, joined[0][idx]))])] },
      bands, series: series.map((one, place) => (place ? { ...one, spanGaps: true } : one)),
    }, joined, at);
  };
  const WHOLE = [1, 2, 5].flatMap((one) => [1, 10, 100, 1e3, 1e4, 1e5, 1e6].map((power) => one * power)).sort((one, other) => one - other);
  // Ticks of a logarithmic axis: the measured values, or as many of them as can be read.
  const splitsOf = (xs, low, high) => {
    const inside = xs.filter((x) => x >= low && x <= high), every = Math.ceil(inside.length / 9);
    return inside.filter((_, place) => place % every === 0);
  };
  // The marks of the drawing without a script: series differ by shape as well as by colour.
  const mark = (ctx, x, y, kind, half) => {
    ctx.beginPath();
    if (kind === 1) ctx.rect(x - half, y - half, 2 * half, 2 * half);
    else if (kind === 2) { ctx.moveTo(x, y - 1.2 * half); ctx.lineTo(x + 1.2 * half, y + half); ctx.lineTo(x - 1.2 * half, y + half); }
    else ctx.arc(x, y, half, 0, 7);
    ctx.fill();
  };
  const isMeasured = ({ kind }) => kind === "points" || kind === "joined";
  const whiskers = (panel) => (plot) => {
    const { ctx } = plot, x = (value) => plot.valToPos(value, "x", true), y = (value) => plot.valToPos(value, "y", true);
    ctx.save();
    ctx.lineWidth = 1.4 * devicePixelRatio;
    panel.series.forEach((series, place) => {
      if (!plot.series[place + 1].show) return;
      ctx.strokeStyle = colour(`--${series.colour}`);
      ctx.beginPath();
      series.x.forEach((at, point) => {
        if (series.low?.[point] != null && series.high?.[point] != null) { ctx.moveTo(x(at), y(series.low[point])); ctx.lineTo(x(at), y(series.high[point])); }
        if (series.left?.[point] != null && series.right?.[point] != null) { ctx.moveTo(x(series.left[point]), y(series.y[point])); ctx.lineTo(x(series.right[point]), y(series.y[point])); }
      });
      ctx.stroke();
      if (isMeasured(series)) {
        ctx.fillStyle = ctx.strokeStyle;
        series.x.forEach((at, point) => { if (series.y[point] != null) mark(ctx, x(at), y(series.y[point]), place % 3, 4 * devicePixelRatio); });
      }
      ctx.fillStyle = colour("--soft");
      ctx.font = `${11 * devicePixelRatio}px system-ui`;
      series.labels?.forEach((words, point) => {
        const at = x(series.x[point]), left = at + ctx.measureText(words).width + 7 > plot.bbox.left + plot.bbox.width;
        ctx.textAlign = left ? "right" : "left";
        ctx.fillText(words, at + (left ? -7 : 7), y(series.y[point]) - 7);
      });
    });
    ctx.restore();
  };
  const charts = new Map();
  const drawChart = (at, panel) => {
    const xs = [...new Set(panel.series.flatMap((series) => series.x))].sort((one, other) => one - other);
    const column = (series) => { const known = new Map(series.x.map((x, place) => [x, series.y[place]])); return xs.map((x) => known.get(x) ?? null); };
    const heights = panel.series.flatMap((series) => [...series.y, ...(series.high ?? []), ...(series.low ?? [])]).filter((y) => y != null);
    const most = Math.max(...heights), least = Math.min(...heights);
    const floor = panel.from_zero ? Math.min(0, least) : least;
    const range = panel.log_y ? [least / 1.6, most * 1.6] : [floor < least ? floor : least - 0.08 * (most - least || 1), most + 0.08 * (most - floor || most || 1)];
    const apart = xs[xs.length - 1] - xs[0] || 1;
    const measured = panel.series.filter(isMeasured).flatMap((series) => series.x);
    const marked = [...new Set(measured.length ? measured : xs)].sort((one, other) => one - other);
    const ends = panel.log_x ? [xs[0] / 1.15, xs[xs.length - 1] * 1.15] : [xs[0] - 0.04 * apart, xs[xs.length - 1] + 0.04 * apart];
    const number = (value) => (value == null ? "" : Number(value.toPrecision(4)).toLocaleString("en"));
    return new uPlot({
      width: widthOf(at), height: 330, padding: [10, 16, 0, 0], pxAlign: 0,
      scales: { x: { time: false, distr: panel.log_x ? 3 : 1, log: 2, range: (_, low, high) => (high - low < apart ? [low, high] : ends) }, y: { distr: panel.log_y ? 3 : 1, range: () => range } },
      axes: [{ ...axis(panel.x_label), ...(panel.log_x ? { splits: (plot, _, low, high) => splitsOf(marked, low, high), grid: { show: false } } : marked.every(Number.isInteger) ? { incrs: WHOLE } : {}), values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : number(tick))) }, { ...axis(panel.y_label), size: 64, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : number(tick))) }],
      series: [{ label: panel.x_label, value: (_, value) => number(value) }, ...panel.series.map((series) => {
        const stroke = colour(`--${series.colour}`);
        const points = series.kind === "points";
        return { label: series.name, stroke, width: 1.8, spanGaps: true, dash: series.kind === "dashed" ? [6, 5] : undefined, value: (_, value) => number(value),
          paths: points ? () => null : series.kind === "steps" ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear(), points: { show: false } };
      })],
      legend: { show: false },
      hooks: { draw: [whiskers(panel)], setCursor: [hintOf((idx) => [`${panel.x_label}: ${number(xs[idx])}`, ...panel.series.flatMap((series) => {
        const point = series.x.indexOf(xs[idx]);
        if (point < 0 || series.y[point] == null) return [];
        const ends = series.low?.[point] != null ? ` [${number(series.low[point])}, ${number(series.high[point])}]` : "";
        return [`${series.name}: ${number(series.y[point])}${ends}`];
      }), panel.y_label])] },
    }, [xs, ...panel.series.map(column)], at);
  };
  const redraw = (anew = false) => {
    for (const at of all(".view:not([hidden]) .curves")) {
      const panel = data.figures[at.closest(".figure").dataset.figure];
      if (!panel?.series) continue;
      if (!charts.has(at)) {
        const chart = document.createElement("div");
        chart.className = "chart";
        at.append(chart);
        charts.set(at, { chart, plot: null });
      }
      const held = charts.get(at);
      if (held.plot && !anew) { if (held.plot.width !== widthOf(held.chart)) held.plot.setSize({ width: widthOf(held.chart), height: 330 }); continue; }
      held.plot?.destroy();
      held.plot = drawChart(held.chart, panel);
    }
  };
  addEventListener("resize", () => redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { redraw(true); open = ""; showPart(state()); });

  // The filter.
  const field = $("#filter"), count = $("#count");
  const filter = (words) => {
    const wanted = words.trim().toLowerCase(), rows = all("tr[data-part], table.data tbody tr");
    let left = 0;
    for (const row of rows) {
      const out = wanted !== "" && !row.textContent.replaceAll("\u00a0", " ").toLowerCase().includes(wanted);
      row.classList.toggle("filtered-out", out);
      left += out ? 0 : 1;
    }
    count.textContent = wanted ? `${left} of ${rows.length} rows` : "";
  };
  field.addEventListener("input", () => go({ filter: field.value }, true));

  const show = () => {
    const now = state();
    for (const view of views) view.hidden = view.dataset.view !== now.view;
    for (const link of all("nav a")) {
      if (link.dataset.view === now.view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    if (field.value !== now.filter) field.value = now.filter;
    filter(now.filter);
    redraw();
    showPart(now);
  };

  // Rows are buttons for the keyboard.
  for (const row of all("tr[data-part]")) {
    const head = $("th", row), button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.setAttribute("aria-label", row.dataset.hint.replaceAll("\n", "; "));
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) { const box = button.getBoundingClientRect(); showHint(row, box.left, box.bottom - 12); } });
    button.addEventListener("blur", hideHint);
    head.append(button);
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("nav a[data-view]");
    if (link) { event.preventDefault(); go({ view: link.dataset.view }); return; }
    const part = event.target.closest?.(".figure [data-part]");
    if (!part || event.target.closest("#detail") || String(getSelection())) return;
    const figure = part.closest(".figure").dataset.figure;
    const now = state();
    hideHint();
    if (now.figure === figure && now.part === part.dataset.part) close(); else go({ figure, part: part.dataset.part });
  });
  const help = $("#help");
  $("#help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (help.open) return;
      if (document.activeElement === field && field.value) go({ filter: "" }, true);
      else if (open) close();
      hideHint();
      return;
    }
    if (event.target.matches?.("input")) return;
    if (event.key === "/") { event.preventDefault(); field.focus(); field.select(); }
    else if (event.key === "?") help.open ? help.close() : help.showModal();
    else if (/^[1-9]$/.test(event.key) && views.some((view) => view.dataset.view === event.key)) go({ view: event.key });
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const buttons = all(".view:not([hidden]) tr[data-part]:not(.filtered-out) button"), at = buttons.indexOf(document.activeElement);
      if (at >= 0) { event.preventDefault(); buttons[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus(); }
    }
  });
  addEventListener("hashchange", show);
  addEventListener("popstate", show);
  show();
  loading = false;
})();
