"use strict";
// The page of a report. All text goes in as text nodes; numbers of the data are whole.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SCALE = 1000000000; // of scores; classes and curves come in ten-thousandths
  const fine = (values) => values.map((value) => (value === null ? null : (SCALE / 10000) * value));
  const byId = (id) => document.getElementById(id);
  const titles = new Map(data.attacks);
  const metrics = data.metrics.map(([name, title, up, percent], place) => ({ name, title, up, percent, place }));
  const metric = (name) => metrics.find((one) => one.name === name);
  const state = { sort: null, down: true, open: new Set(), chosen: [] };

  // Making elements

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function drawn(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function picture(width, height, title, description, ...children) {
    const parts = [drawn("title", {}, title), drawn("desc", {}, description), ...children];
    return drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}. ${description}` }, ...parts);
  }

  function table(heads, lines, className = "") {
    const head = element("thead", {}, element("tr", {}, ...heads.map((text, place) => element("th", { scope: "col", class: place ? null : "text" }, text))));
    const body = lines.map((line) => element("tr", {}, ...line.map((cell, place) => {
      const node = element(place ? "td" : "th", place ? {} : { scope: "row", class: "text" });
      node.append(cell instanceof Node ? cell : String(cell));
      return node;
    })));
    return element("div", { class: "wide" }, element("table", { class: className }, head, element("tbody", {}, ...body)));
  }

  // Numbers

  const missing = "–";
  const shown = (value, one, digits = 2) => {
    if (value === null || value === undefined) return missing;
    const [whole, places] = one && !one.percent ? [SCALE, digits + 1] : [SCALE / 100, digits];
    const rounded = Math.sign(value) * Math.round(Math.abs(value) / (whole / 10 ** places)); // half up, as the tables do
    return (rounded / 10 ** places).toFixed(places);
  };
  const bounds = (low, high, one) => (low === null || low === undefined ? "" : `[${shown(low, one)}, ${shown(high, one)}]`);
  const hours = (row) => (row.train_hours === null ? null : row.train_hours + (row.eval_hours || 0));
  const signed = (value, one) => (value > 0 ? "+" : "") + shown(value, one);

  // What is chosen

  const setting = (row) => data.settings[row.setting];
  const captionOf = (place) => data.settings[place].captions[byId("checkpoint").value] || [];
  const checkpointOf = (row) => (row.scores[byId("checkpoint").value] ? byId("checkpoint").value : "given");
  const cell = (row, attack, name) => ((row.scores[checkpointOf(row)] || {})[attack] || [])[metric(name).place] || null;
  const classesOf = (row, attack) => (((row.classes || {})[checkpointOf(row)] || {})[attack] || null)?.map(fine) ?? null;

  function visibleRows() {
    const find = byId("find").value.trim().toLowerCase();
    const wanted = ["dataset", "student", "eps"].map((name) => [name, byId(name).value]).filter(([, value]) => value !== "");
    return data.rows
      .map((row, place) => ({ row, place }))
      .filter(({ row }) => wanted.every(([name, value]) => String(setting(row)[name]) === value || (name === "student" && row.role === "teacher")))
      .filter(({ row }) => `${row.variant} ${row.method}`.toLowerCase().includes(find));
  }

  function columns() {
    const many = data.rows.some((row) => setting(row).classes.length >= 100);
    const unequal = data.settings.some(({ unequal }) => unequal);
    const names = data.columns.length ? data.columns : ["average", unequal && "overall", "worst", many && "worst_10_percent", "nsd"].filter((name) => name);
    const attacks = byId("attack").value === "" ? data.attacks.map(([name]) => name) : [byId("attack").value];
    const scores = attacks.flatMap((attack) => names.map((name, place) => ({
      key: `${attack} ${name}`, attack, one: metric(name), group: titles.get(attack), title: metric(name).title, first: place === 0,
      value: (row) => (cell(row, attack, name) || [null])[0],
    })));
    const costs = [
      { key: "seeds", title: "Seeds", value: (row) => row.seeds, text: (value) => String(value), first: true },
      { key: "hours", title: "Hours", value: hours, text: (value) => (value === null ? missing : value.toFixed(2)) },
      { key: "memory", title: "MiB", value: (row) => row.peak_memory_mb, text: (value) => (value === null ? missing : value.toFixed(0)) },
    ];
    if (data.rows.some((row) => row.peeked_gain !== null)) {
      costs.push({ key: "peeked", title: "Peeked gain", value: (row) => row.peeked_gain, text: (value) => (value === null ? missing : (100 * value).toFixed(2)) });
    }
    if (data.rows.some((row) => row.tuning_trials !== null)) {
      costs.push({ key: "tuning", title: "Tuning trials", value: (row) => row.tuning_trials, text: (value) => (value === null ? missing : String(value)) });
    }
    return [...scores, ...costs];
  }

  function sorted(rows, list) {
    const column = list.find((one) => one.key === state.sort);
    if (!column && state.sort !== "variant") return rows;
    const direction = state.down ? -1 : 1;
    return [...rows].sort((one, other) => {
      if (state.sort === "variant") return direction * one.row.variant.localeCompare(other.row.variant) || one.place - other.place;
      const [first, second] = [column.value(one.row), column.value(other.row)];
      if (first === null || second === null) return (first === null) - (second === null) || one.place - other.place;
      return direction * (first - second) || one.place - other.place;
    });
  }

  // The table

  function sortBy(key, better) {
    state.down = state.sort === key ? !state.down : better;
    state.sort = key;
    show();
    const again = [...document.querySelectorAll("#leaderboard th button")].find((button) => button.dataset.key === key);
    if (again) again.focus();
  }

  function headCell(key, title, better, attributes) {
    const order = state.sort === key ? (state.down ? "descending" : "ascending") : null;
    const button = element("button", { type: "button", "data-key": key, on: { click: () => sortBy(key, better) } }, title);
    return element("th", { scope: "col", "aria-sort": order, ...attributes }, button);
  }

  function heads(list) {
    const groups = [];
    for (const column of list) {
      const last = groups[groups.length - 1];
      if (last && last.title === (column.group || "")) last.span += 1;
      else groups.push({ title: column.group || "", span: 1 });
    }
    const top = [element("td", { class: "name" }), ...groups.map(({ title, span }) => element("th", { colspan: span, scope: "colgroup", class: "first", style: "text-align:center" }, title))];
    const low = [headCell("variant", "Variant", false, { class: "name" }), ...list.map((column) => headCell(column.key, column.title, column.one ? column.one.up : true, { class: column.first ? "first" : null }))];
    return [element("tr", {}, ...top), element("tr", {}, ...low)];
  }

  function scoreCell(row, column) {
    const found = cell(row, column.attack, column.one.name);
    if (!found) return element("td", { class: column.first ? "first" : null }, missing);
    const [value, , , , , rank, mark] = found;
    const number = element("span", { class: rank === 1 ? "best" : rank === 2 ? "second" : null }, shown(value, column.one));
    const words = { "↑": "better than the baseline", "↓": "worse than the baseline", "≈": "inside the noise" };
    const sign = element("span", { class: "sign", title: words[mark] || null }, mark || "");
    return element("td", { class: column.first ? "first" : null }, number, sign);
  }

  function nameCell(row, place) {
    const open = state.open.has(place);
    const box = element("input", { type: "checkbox", "aria-label": `Compare ${row.variant}`, on: { change: (event) => choose(place, event.target.checked) } });
    box.checked = state.chosen.includes(place);
    const button = element("button", { type: "button", "aria-expanded": String(open), "data-row": place, on: { click: () => toggle(place) } }, `${open ? "▾" : "▸"} ${row.variant}`);
    const where = data.settings.length > 1 ? element("div", { class: "mark" }, setting(row).title) : null;
    const role = row.role === "student" ? null : element("span", { class: "mark" }, row.role === "teacher" ? ` ${row.student}` : " (given)");
    const lacks = row.missing ? element("div", { class: "missing" }, row.missing) : null;
    return element("td", { class: "name" }, box, button, role, where, lacks);
  }

  function lines({ row, place }, list) {
    const cells = list.map((column) => (column.one ? scoreCell(row, column) : element("td", { class: column.first ? "first" : null }, column.text(column.value(row)))));
    const line = element("tr", { class: row.role === "teacher" ? "teacher" : null }, nameCell(row, place), ...cells);
    if (!state.open.has(place)) return [line];
    line.classList.add("open");
    return [line, element("tr", { class: "open" }, element("td", { class: "detail", colspan: list.length + 1 }, detail(row)))];
  }

  function show() {
    const list = columns();
    const rows = sorted(visibleRows(), list);
    byId("leaderboard").tHead.replaceChildren(...heads(list));
    byId("leaderboard").tBodies[0].replaceChildren(...rows.flatMap((one) => lines(one, list)));
    byId("count").textContent = `${rows.length} of ${data.rows.length} rows`;
    byId("compare").disabled = state.chosen.length !== 2;
    const settings = [...new Set(rows.map(({ row }) => row.setting))];
    const rule = data.rules[byId("checkpoint").value];
    const sentences = settings.slice(0, 3).map((place) => element("p", {}, captionOf(place).filter((text) => !text.startsWith("Checkpoint ")).join(" ")));
    byId("caption").replaceChildren(element("p", {}, `Checkpoint ${byId("checkpoint").value}: ${rule || "the network as it was given"}.`), ...sentences);
  }

  function toggle(place) {
    if (!state.open.delete(place)) state.open.add(place);
    show();
    document.querySelector(`[data-row="${place}"]`).focus();
  }

  function choose(place, on) {
    state.chosen = state.chosen.filter((one) => one !== place);
    if (on) state.chosen = [...state.chosen.slice(-1), place];
    show();
    const box = document.querySelector(`[data-row="${place}"]`).parentNode.querySelector("input");
    box.focus();
  }

  // An open row

  function headline(row) {
    const chosen = byId("attack").value;
    const there = Object.keys(row.scores[checkpointOf(row)] || {});
    const pgd = there.filter((name) => /^pgd[0-9]+$/.test(name));
    return [chosen, ...pgd, "aa_standard", "aa_short", ...there].find((name) => there.includes(name)) || null;
  }

  function detail(row) {
    const body = element("div", { class: "detail-body" });
    const fill = (attack) => {
      const parts = [];
      if (attack) {
        const select = element("select", { "aria-label": "Attack of the opened row", on: { change: (event) => fill(event.target.value) } },
          ...Object.keys(row.scores[checkpointOf(row)]).map((name) => element("option", { value: name, selected: name === attack }, titles.get(name))));
        parts.push(element("p", {}, select, ` ${row.images[attack].toLocaleString("en")} images, checkpoint ${checkpointOf(row)}`));
        parts.push(element("div", { class: "panels" }, classPanel(row, attack), scorePanel(row, attack), seedPanel(row, attack), curvePanel(row), ...temperaturePanels(row)));
      }
      parts.push(element("div", { class: "panels" }, factPanel(row), specPanel(row)));
      body.replaceChildren(...parts);
    };
    fill(headline(row));
    return body;
  }

  function section(title, ...children) {
    return element("section", {}, element("h3", {}, title), ...children);
  }

  function classPanel(row, attack) {
    const names = setting(row).classes;
    const values = classesOf(row, attack).map(([value, low, high], place) => ({ name: names[place], images: row.class_images[attack][place], value, low, high })).filter(({ value }) => value !== null);
    const order = [...values].sort((one, other) => one.value - other.value);
    const chart = bars(order.map(({ name, images, ...one }) => ({ name, marks: [one] })), `Accuracy of each class of ${row.variant} under ${titles.get(attack)}`, [row.variant]);
    const numbers = table(["class", "images", "accuracy", "95% over test samples"], order.map(({ name, images, value, low, high }) => [name, images.toLocaleString("en"), shown(value), bounds(low, high)]));
    return section("Classes, hardest first", chart, element("details", {}, element("summary", {}, "Numbers"), numbers));
  }

  // Horizontal bars with their 95% intervals; one or two marks per class.
  function bars(classes, title, names) {
    const small = classes.length > 30;
    const [left, width, height] = [small ? 8 : 110, 420, small ? 6 * names.length : 12 * names.length + 6];
    const x = (value) => left + ((width - left - 34) * value) / SCALE;
    const parts = [0, 0.25 * SCALE, 0.5 * SCALE, 0.75 * SCALE, SCALE].flatMap((value) => [
      drawn("line", { class: "grid", x1: x(value), x2: x(value), y1: 14, y2: 16 + classes.length * height }),
      drawn("text", { class: "soft", x: x(value), y: 10, "text-anchor": "middle" }, String((100 * value) / SCALE)),
    ]);
    classes.forEach(({ name, marks }, place) => {
      const top = 18 + place * height;
      if (!small) parts.push(drawn("text", { x: left - 6, y: top + height / 2, "text-anchor": "end", "dominant-baseline": "middle" }, name.length > 17 ? `${name.slice(0, 16)}…` : name));
      marks.forEach(({ value, low, high }, which) => {
        if (value === null) return;
        const y = top + which * (small ? 5 : 12);
        const thick = small ? 4 : 10;
        parts.push(drawn("rect", { class: which ? "bar-two" : "bar", x: x(0), y, width: Math.max(0, x(value) - x(0)), height: thick }, drawn("title", {}, `${name}: ${shown(value)} ${bounds(low, high)}`)));
        if (low !== null) parts.push(drawn("line", { class: "range", x1: x(low), x2: x(high), y1: y + thick / 2, y2: y + thick / 2 }));
        if (!small) parts.push(drawn("text", { class: "soft", x: Math.max(x(high === null ? value : high), x(value)) + 4, y: y + thick - 1 }, shown(value, null, 1)));
      });
    });
    const ends = classes.length ? `From ${classes[0].name} ${classes[0].marks.map(({ value }) => shown(value, null, 1)).join(" and ")} to ${classes[classes.length - 1].name} ${classes[classes.length - 1].marks.map(({ value }) => shown(value, null, 1)).join(" and ")} percent.` : "No classes.";
    return picture(width, 22 + classes.length * height, title, ends, ...parts);
  }

  function scorePanel(row, attack) {
    const names = metrics.filter(({ name }) => name !== "worst_10_percent" || setting(row).classes.length > 10);
    const found = names.map((one) => [one, cell(row, attack, one.name)]).filter(([, score]) => score);
    const several = found.some(([, score]) => score[7] !== undefined);
    const rows = found.map(([one, [value, low, high, seedLow, seedHigh, , , spread]]) => [one.title, shown(value, one), bounds(low, high, one) || missing, bounds(seedLow, seedHigh, one) || missing, ...(several ? [shown(spread, one)] : [])]);
    const note = "Worst class: simultaneous bounds; the raw minimum is biased low. Val.-worst: test accuracy of the class validation found worst, unbiased. Seeds: Student's t, from three on.";
    return section("Scores and 95% intervals", table(["", "value", "test samples", "seeds", ...(several ? ["between teachers"] : [])], rows), element("p", { class: "mark" }, note));
  }

  function seedPanel(row, attack) {
    const several = row.teachers.includes(",");
    const found = (row.trials || []).map((trial) => {
      const values = ((trial.scores[checkpointOf(row)] || {})[attack]) || [null, null, null];
      return [trial.seed, ...(several ? [trial.teacher_seed] : []), ...values.map((value, place) => shown(value, metric(["average", "worst", "nsd"][place]))), trial.status];
    });
    return section("Each seed", table(["seed", ...(several ? ["teacher"] : []), "Avg.", "Worst", "NSD", "state"], found));
  }

  function lineChart(title, description, epochs, curves, scale) {
    const [width, height, left, right, bottom] = [420, 220, 42, 92, 196];
    const values = curves.flatMap(({ values }) => values).filter((value) => value !== null);
    if (!values.length || !epochs.length) return element("p", {}, missing);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (scale === "share") low = Math.min(low, 0);
    if (high === low) high = low + 1;
    const x = (epoch) => left + ((width - left - right) * (epoch - epochs[0])) / Math.max(1, epochs[epochs.length - 1] - epochs[0]);
    const y = (value) => bottom - ((bottom - 12) * (value - low)) / (high - low);
    const text = (value) => (scale === "share" ? ((100 * value) / SCALE).toFixed(0) : (value / SCALE).toFixed(2));
    const parts = [0, 1 / 3, 2 / 3, 1].flatMap((part) => {
      const value = low + part * (high - low);
      return [drawn("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }), drawn("text", { class: "soft", x: left - 5, y: y(value) + 4, "text-anchor": "end" }, text(value))];
    });
    parts.push(drawn("text", { class: "soft", x: left, y: 212 }, `epoch ${epochs[0]}`), drawn("text", { class: "soft", x: width - right, y: 212, "text-anchor": "end" }, String(epochs[epochs.length - 1])));
    const ends = [];
    for (const { name, values: line, style } of curves) {
      const points = line.map((value, place) => (value === null ? null : `${x(epochs[place]).toFixed(1)},${y(value).toFixed(1)}`)).filter((point) => point);
      parts.push(drawn("polyline", { points: points.join(" "), fill: "none", ...style }, drawn("title", {}, name)));
      if (line[line.length - 1] !== null) ends.push({ name, y: y(line[line.length - 1]) });
    }
    if (ends.length <= 14) {
      ends.sort((one, other) => one.y - other.y);
      let floor = 4;
      for (const end of ends) { end.y = Math.max(end.y, floor); floor = end.y + 11; }
      let ceiling = height - 22;
      for (const end of [...ends].reverse()) { end.y = Math.min(end.y, ceiling); ceiling = end.y - 11; }
      for (const { name, y: place } of ends) parts.push(drawn("text", { x: width - right + 4, y: place + 4 }, name.length > 15 ? `${name.slice(0, 14)}…` : name));
    }
    return picture(width, height, title, description, ...parts);
  }

  function curvePanel(row) {
    if (!row.curve) return null;
    const [epochs, average, worst] = [row.curve[0], fine(row.curve[1]), fine(row.curve[2])];
    const last = epochs.length - 1;
    const description = `After epoch ${epochs[last]}: average ${shown(average[last], null, 1)}, worst class ${shown(worst[last], null, 1)} percent.`;
    const chart = lineChart(`Robust validation accuracy of ${row.variant} over epochs`, description, epochs, [
      { name: "average", values: average, style: { class: "curve" } }, { name: "worst class", values: worst, style: { class: "curve-two" } },
    ], "share");
    return section("Training, robust validation (%)", chart);
  }

  function temperaturePanels(row) {
    const name = (place) => setting(row).classes[place] ?? String(place);
    return Object.entries(row.temperatures || {}).map(([term, [epochs, coarse]]) => {
      const lines = coarse.map(fine);
      const ends = lines.map((line, place) => ({ name: name(place), value: line[line.length - 1] })).filter(({ value }) => value !== null).sort((one, other) => one.value - other.value);
      const rank = new Map(ends.map(({ name }, place) => [name, place / Math.max(1, ends.length - 1)]));
      const curves = lines.map((values, place) => ({ name: name(place), values, style: { stroke: shade(rank.get(name(place)) || 0), "stroke-width": lines.length > 20 ? 0.7 : 1.5, "stroke-dasharray": lines.length > 20 ? "none" : ["none", "5 3", "2 2"][place % 3] } }));
      const description = ends.length ? `At the end from ${ends[0].name} ${(ends[0].value / SCALE).toFixed(2)} to ${ends[ends.length - 1].name} ${(ends[ends.length - 1].value / SCALE).toFixed(2)}.` : "";
      return section(`Temperatures, ${term || "classes"}`, lineChart(`Class temperatures of ${row.variant}, ${term}`, description, epochs, curves, "plain"));
    });
  }

  // From blue (low) over grey to orange (high), of middling lightness: legible on white and on black.
  const shade = (part) => `hsl(${part < 0.5 ? 215 : 28} ${Math.round(20 + 130 * Math.abs(part - 0.5))}% 52%)`;

  function factPanel(row) {
    const trial = (row.trials || [])[0] || {};
    const versions = Object.entries(trial.versions || {}).map(([name, version]) => `${name} ${version}`).join(", ");
    const rows = [
      ["method", row.method], ["network", row.student], ["teacher", row.teacher], ["seeds", row.seed_list], ["training, hours a trial", row.train_hours], ["evaluation, hours a trial", row.eval_hours],
      ["peak memory, MiB", row.peak_memory_mb], ["tuning trials", row.tuning_trials],
      ["robust test score at the honest epoch", row.honest_score], ["at the last epoch", row.last_score], ["peeked: at the epoch best on the test set", row.peeked_score],
      ["trained on", trial.train_device], ["evaluated on", trial.device], ["sha256 of its teacher's weights", trial.teacher_sha256], ["sha256 of the weights it started from", trial.init_sha256], ["versions", versions], ["git commit", trial.git_commit], ["code fingerprint", trial.code_fingerprint],
      ["trials", (row.trials || []).map((one) => one.trial_id).join(", ")], ["missing", row.missing],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const lines = rows.map(([name, value]) => [name, element("span", {}, typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value))]);
    const made = table(["", ""], lines);
    for (const one of made.querySelectorAll("td")) one.className = "text";
    made.querySelector("thead").remove();
    return section("Cost and provenance", made);
  }

  function specPanel(row) {
    return section("Specification", element("pre", { tabindex: 0, "aria-label": `Specification of ${row.variant}` }, JSON.stringify(row.spec, null, 1)));
  }

  // Two variants

  function compared(first, second) {
    const straight = data.pairs[`${first}-${second}`];
    if (straight) return { pair: straight, sign: 1 };
    const turned = data.pairs[`${second}-${first}`];
    return turned ? { pair: turned, sign: -1 } : null;
  }

  const turn = (sign, low, high) => (low === null || low === undefined ? [null, null] : sign > 0 ? [low, high] : [-high, -low]);

  function comparisonTable(pair, sign, checkpoint) {
    const found = pair[checkpoint] || pair.given || {};
    const excludes = (low, high) => low !== null && (low > 0 || high < 0);
    const words = (stands, low, high) => {
      if (stands === null) return missing;
      if (stands) return excludes(low, high) ? "stands" : "stands (by the spread of all rows over seeds)";
      return excludes(low, high) ? "noise (once corrected for all comparisons, or over test samples)" : "noise";
    };
    const lines = data.attacks.filter(([name]) => found[name]).flatMap(([name, title]) => ["average", "worst", "nsd"].map((key, place) => {
      const [change, low, high, seedLow, seedHigh, stands] = found[name].metrics[place];
      const one = metric(key);
      const verdict = element("span", { class: stands ? "stands" : null }, words(stands, seedLow, seedHigh));
      const over = found[name].seeds ? ` (over seeds ${found[name].seeds})` : "";
      return [`${title} ${one.title}`, change === null ? missing : signed(sign * change, one) + over, verdict, bounds(...turn(sign, low, high), one) || missing, bounds(...turn(sign, seedLow, seedHigh), one) || missing];
    }));
    return table(["", "difference", "", "95% test samples", "95% seeds"], lines);
  }

  function classComparison(first, second, pair, sign, attack) {
    const found = ((pair || {})[byId("checkpoint").value] || (pair || {}).given || {})[attack];
    const [one, other] = [classesOf(first, attack), classesOf(second, attack)];
    const names = setting(first).classes;
    const order = one.map((_, place) => place).filter((place) => one[place][0] !== null && other[place] && other[place][0] !== null).sort((a, b) => other[a][0] - other[b][0]);
    const pack = ([value, low, high]) => ({ value, low, high });
    const chart = bars(order.map((place) => ({ name: names[place], marks: [pack(one[place]), pack(other[place])] })), `Classes of ${first.variant} and ${second.variant} under ${titles.get(attack)}`, [first.variant, second.variant]);
    const key = element("p", {}, element("span", { style: "color:var(--bar)" }, "■ "), first.variant, element("span", { style: "color:var(--bar-two)" }, "  ■ "), second.variant);
    if (!found) return [key, chart];
    const lines = order.map((place) => {
      const [change, low, high, p] = fine(found.classes[place]);
      const verdict = p !== null && p < 0.05 * SCALE ? element("span", { class: "stands" }, "stands") : "noise";
      return [names[place], signed(sign * change), verdict, bounds(...turn(sign, low, high)), p === null ? missing : p < SCALE / 10000 ? "< 0.0001" : (p / SCALE).toFixed(4)];
    });
    return [key, chart, table(["class", "difference", "", "95%", "p (Holm)"], lines), element("p", { class: "mark" }, `Over test samples: ${found.pairing || "not compared"}. Intervals hold each by itself; a verdict is there where the table marks it. Classes: over ${found.over}; p is corrected for looking at every class, and a class stands where it is below 0.05.`)];
  }

  function compare() {
    const [left, right] = state.chosen;
    const [first, second] = [data.rows[left], data.rows[right]];
    const box = byId("comparison");
    const close = element("button", { type: "button", on: { click: () => { box.hidden = true; byId("compare").focus(); } } }, "Close");
    const parts = [element("h2", {}, `${first.variant} minus ${second.variant}`)];
    const shared = ["dataset", "eps"].every((name) => setting(first)[name] === setting(second)[name]);
    if (!shared) parts.push(element("p", {}, "These two do not share data set and eps: their numbers cannot be compared."));
    else {
      const found = compared(left, right);
      const attack = headline(first);
      if (found) parts.push(comparisonTable(found.pair, found.sign, byId("checkpoint").value));
      else parts.push(element("p", {}, "This pair was not tested beforehand: too many variants. Report fewer trials to have its intervals; the classes are drawn below, each with its own."));
      if (attack && classesOf(first, attack) && classesOf(second, attack)) parts.push(element("h3", {}, `Classes under ${titles.get(attack)}`), ...classComparison(first, second, found && found.pair, found ? found.sign : 1, attack));
    }
    box.replaceChildren(...parts, close);
    box.hidden = false;
    box.focus();
    box.scrollIntoView({ block: "nearest" });
  }

  // Downloads of the table as it is shown

  const latexSigns = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "#": "\\#", _: "\\_", "%": "\\%", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", '"': "''", "–": "--" };
  const latexText = (text) => [...String(text)].map((sign) => latexSigns[sign] || (sign.codePointAt(0) < 256 ? sign : "?")).join("");
  const csvText = (value) => {
    if (typeof value === "number") return String(value);
    const text = String(value === null ? "" : value).replace(/\s+/g, " ");
    const safe = /^[=+\-@＝＋－＠]/.test(text) ? `'${text}` : text;
    return /[",]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };

  function csv() {
    const list = columns();
    const head = ["dataset", "student", "eps", "role", "variant", "checkpoint", ...list.map(({ key }) => key)];
    const exact = (row, column) => { const value = column.value(row); return value === null ? "" : column.one ? value / SCALE : value; };
    const rows = sorted(visibleRows(), list).map(({ row }) => [setting(row).dataset, row.student, setting(row).eps, row.role, row.variant, checkpointOf(row), ...list.map((column) => exact(row, column))]);
    return [head, ...rows].map((line) => line.map(csvText).join(",")).join("\n") + "\n";
  }

  function latex() {
    const list = columns().filter(({ one }) => one);
    const attacks = [...new Set(list.map(({ attack }) => attack))];
    const width = list.length / attacks.length;
    const marked = (row, column) => {
      const found = cell(row, column.attack, column.one.name);
      const text = found ? shown(found[0], column.one) : "--";
      return found && found[5] === 1 ? `\\textbf{${text}}` : found && found[5] === 2 ? `\\underline{${text}}` : text;
    };
    const rows = sorted(visibleRows(), list);
    const caption = [...new Set(rows.map(({ row }) => row.setting))].map((place) => captionOf(place).filter((text) => !/^(Checkpoint|Against) /.test(text)).join(" ")).join(" ");
    const rules = attacks.map((_, place) => `\\cmidrule(lr){${2 + width * place}-${1 + width * (place + 1)}}`).join(" ");
    return [
      "% Needs \\usepackage{booktabs}.", "\\begin{table*}[t]", "\\centering\\footnotesize", "\\setlength{\\tabcolsep}{2pt}",
      `\\caption{${latexText(`${caption} Checkpoint ${byId("checkpoint").value}.`)}}`, `\\begin{tabular}{@{}l${`@{\\hspace{5pt}}${"r".repeat(width)}`.repeat(attacks.length)}@{}}`, "\\toprule",
      `${attacks.map((name) => ` & \\multicolumn{${width}}{c}{${latexText(titles.get(name))}}`).join("")} \\\\`, rules, `Method & ${list.map(({ title }) => latexText(title)).join(" & ")} \\\\`, "\\midrule",
      ...rows.map(({ row }) => `${latexText(row.variant)} & ${list.map((column) => marked(row, column)).join(" & ")} \\\\`),
      "\\bottomrule", "\\end{tabular}", "\\end{table*}", "",
    ].join("\n");
  }

  function download(name, text, kind) {
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Start

  function options(id, pairs, chosen) {
    byId(id).replaceChildren(...pairs.map(([value, title]) => element("option", { value, selected: value === chosen }, title)));
    byId(id).addEventListener("change", show);
  }

  for (const name of ["dataset", "student", "eps"]) {
    const values = [...new Set(data.settings.map((one) => String(one[name])))];
    options(name, values.length > 1 ? [["", "all"], ...values.map((value) => [value, value])] : values.map((value) => [value, value]), "");
  }
  const narrow = window.innerWidth < 640 && titles.has("pgd20") ? "pgd20" : "";
  options("attack", [["", "all"], ...data.attacks], narrow);
  options("checkpoint", data.checkpoints.map((name) => [name, name]), data.checkpoint);
  byId("find").addEventListener("input", show);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("compare").addEventListener("click", compare);
  byId("download-csv").addEventListener("click", () => download("leaderboard.csv", csv(), "text/csv"));
  byId("download-latex").addEventListener("click", () => download("leaderboard.tex", latex(), "text/x-tex"));
  byId("notes").replaceChildren(...data.notes.map((note) => element("p", {}, note)));
  show();
})();
