// The page of a report; numbers of the data are whole.

const data = JSON.parse(document.getElementById("data").textContent);
const SCALE = 1000000000; // of scores; classes and curves come in ten-thousandths
const fine = (values) => values.map((value) => (value === null ? null : (SCALE / 10000) * value));
const byId = (id) => document.getElementById(id);
const titles = new Map(data.attacks);
const metrics = data.metrics.map(([name, title, up, percent], place) => ({ name, title, up, percent, place }));
const metric = (name) => metrics.find((one) => one.name === name);
const state = { sort: null, down: true, open: new Set(), chosen: [] }; // sort: null for the order of the ranking
const ROLES = ["student", "evaluation", "teacher"];
const APART = { evaluation: "Given networks", teacher: "Teachers" };

// What is chosen

const setting = (row) => data.settings[row.setting];
const captionOf = (place) => data.settings[place].captions[byId("checkpoint").value] || [];
const markedAttack = (place) => data.settings[place].marked[byId("checkpoint").value];
const rankingOf = (place) => data.settings[place].rankings[byId("checkpoint").value] || Object.values(data.settings[place].rankings)[0];
const standing = (row) => row.standing[byId("checkpoint").value] || Object.values(row.standing)[0]; // [place, rank, score]
const isBaseline = (row) => row.role === "student" && row.variant === setting(row).baseline;
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

function columns(rows) {
  const settings = [...new Set(rows.map(({ row }) => row.setting))];
  const many = data.rows.some((row) => setting(row).classes.length >= 100);
  const unequal = data.settings.some(({ unequal }) => unequal);
  const names = data.columns.length ? data.columns : ["average", unequal && "overall", "worst", many && "worst_10_percent", "nsd"].filter((name) => name);
  const attacks = byId("attack").value === "" ? data.attacks.map(([name]) => name) : [byId("attack").value];
  const ranks = rows.some(({ row }) => standing(row)[1]) ? [{ key: "rank", title: "Rank", up: false, value: (row) => standing(row)[1] || null, text: (value, row) => (row.role === "student" ? String(value || missing) : "") }] : [];
  const by = settings.length ? rankingOf(settings[0]) : null; // one metric for all tables
  const score = by && !names.includes(by.metric) && (ranks.length || !by.listed) ? [{ key: "score", title: by.title, up: by.up, score: true, value: (row) => standing(row)[2], text: (value) => shown(value, by), first: true }] : [];
  const scores = attacks.flatMap((attack) => names.map((name, place) => ({
    key: `${attack} ${name}`, attack, one: metric(name), marked: settings.some((place) => markedAttack(place) === attack), up: metric(name).up, group: titles.get(attack), title: metric(name).title, first: place === 0,
    value: (row) => (cell(row, attack, name) || [null])[0],
  })));
  const costs = [
    { key: "seeds", title: "Seeds", up: true, value: (row) => row.seeds, text: (value) => String(value), first: true },
    { key: "time", title: "Time", up: true, value: hours, text: duration },
    { key: "memory", title: "MiB", up: true, value: (row) => row.peak_memory_mb, text: (value) => (value === null ? missing : count(value)) },
  ];
  if (data.rows.some((row) => row.peeked_gain !== null)) {
    costs.push({ key: "peeked", title: "Peeked gain", up: true, value: (row) => row.peeked_gain, text: (value) => (value === null ? missing : (100 * value).toFixed(2)) });
  }
  if (data.rows.some((row) => row.tuning_trials !== null)) {
    costs.push({ key: "tuning", title: "Tuning trials", up: true, value: (row) => row.tuning_trials, text: (value) => (value === null ? missing : count(value)) });
  }
  return { ranks, list: [...score, ...scores, ...costs] };
}

// The key of the column that the table stands sorted by.
function sortedBy({ ranks, list }, rows) {
  if (state.sort !== null || !rows.length) return state.sort;
  const { metric: name, attack, listed } = rankingOf(rows[0].row.setting);
  if (listed) return null;
  return [...ranks, ...list].map(({ key }) => key).find((key) => key === "rank" || key === "score" || key === `${attack} ${name}`);
}

// The rows of each table by role, in the order of the chosen column: numbers of two tables cannot be compared.
function sorted(rows, { list }) {
  const column = list.find((one) => one.key === state.sort);
  const direction = state.down ? -1 : 1;
  const byColumn = (one, other) => {
    if (state.sort === "variant") return direction * one.row.variant.localeCompare(other.row.variant);
    if (!column) return (state.sort === "rank" ? direction : 1) * (standing(one.row)[0] - standing(other.row)[0]);
    const [first, second] = [column.value(one.row), column.value(other.row)];
    return first === null || second === null ? (first === null) - (second === null) : direction * (first - second);
  };
  const group = ({ row }) => ROLES.length * row.setting + ROLES.indexOf(row.role);
  return [...rows].sort((one, other) => group(one) - group(other) || byColumn(one, other) || standing(one.row)[0] - standing(other.row)[0]);
}

// The table

function sortBy(key, up, by) {
  state.down = by === key && state.sort !== null ? !state.down : by === key ? !up : up;
  state.sort = key;
  show();
  const again = [...document.querySelectorAll("#leaderboard th button")].find((button) => button.dataset.key === key);
  if (again) again.focus();
}

function headCell(key, title, up, by, attributes) {
  const order = by !== key ? null : state.sort === null ? (up ? "descending" : "ascending") : state.down ? "descending" : "ascending";
  const button = element("button", { type: "button", "data-key": key, title: `Sort by ${title}`, on: { click: () => sortBy(key, up, by) } }, title);
  return element("th", { scope: "col", "aria-sort": order, ...attributes }, button);
}

// Whom the marks of an attack's columns compare with.
function against(attack, rows) {
  const settings = [...new Set(rows.map(({ row }) => row.setting))].filter((place) => markedAttack(place) === attack);
  const names = [...new Set(settings.map((place) => data.settings[place].baseline))];
  return names.length ? element("div", { class: "mark" }, `↑↓≈ against ${names.length === 1 ? names[0] : "each baseline"}`) : null;
}

function heads({ ranks, list }, rows) {
  const by = sortedBy({ ranks, list }, rows);
  const groups = [];
  for (const column of list) {
    const last = groups[groups.length - 1];
    if (last && last.title === (column.group || "")) last.span += 1;
    else groups.push({ title: column.group || "", attack: column.attack, span: 1 });
  }
  const top = [...ranks.map(() => element("td", { class: "rank" })), element("td", { class: "name" }), ...groups.map(({ title, attack, span }) => element("th", { colspan: span, scope: "colgroup", class: "first", style: "text-align:center" }, title, attack ? against(attack, rows) : null)), element("td", { class: "paper" })];
  const low = [
    ...ranks.map(({ key, title, up }) => headCell(key, title, up, by, { class: "rank" })),
    headCell("variant", "Variant", false, by, { class: "name" }),
    ...list.map(({ key, title, up, first }) => headCell(key, title, up, by, { class: first ? "first" : null })),
    element("th", { scope: "col", class: "paper" }, "Paper"),
  ];
  return [element("tr", {}, ...top), element("tr", {}, ...low)];
}

function scoreCell(row, column) {
  const found = cell(row, column.attack, column.one.name);
  if (!found) return element("td", { class: column.first ? "first" : null }, missing);
  const [value, , , , , rank, mark] = found;
  const number = element("span", { class: rank === 1 ? "best" : rank === 2 ? "second" : null }, shown(value, column.one));
  const baseline = setting(row).baseline;
  const words = { "↑": `better than ${baseline}`, "↓": `worse than ${baseline}`, "≈": `inside the noise of ${baseline}` };
  const sign = column.marked ? element("span", { class: "sign", title: words[mark] || null }, mark || "") : null; // room for one
  return element("td", { class: column.first ? "first" : null }, number, sign);
}

function nameCell(row, place) {
  const open = state.open.has(place);
  const box = element("input", { type: "checkbox", "aria-label": `Compare ${row.variant}`, on: { change: (event) => choose(place, event.target.checked) } });
  box.checked = state.chosen.includes(place);
  const button = element("button", { type: "button", "aria-expanded": String(open), "data-row": place, on: { click: () => toggle(place) } }, `${open ? "▾" : "▸"} `, ...breakable(row.variant));
  const role = row.role === "teacher" ? row.student : isBaseline(row) ? "baseline" : null;
  const tag = role ? element("span", { class: "mark" }, " ", ...breakable(role)) : null;
  const lacks = row.missing ? element("div", { class: "missing" }, row.missing) : null;
  return element("td", { class: "name" }, element("div", { class: "line" }, box, element("span", { style: room(row.variant) }, button, tag)), lacks);
}

// The paper of a row's method, by venue and year, and the notes on it further below.
function paperCell(row) {
  const known = data.methods[row.method];
  if (!known || row.role !== "student") return element("td", { class: "paper" });
  const { paper, venue } = known;
  const link = paper && paper.arxiv ? element("a", { href: `https://arxiv.org/abs/${paper.arxiv}`, rel: "noreferrer", title: paper.title }, venue) : venue;
  return element("td", { class: "paper" }, link, link ? " · " : null, notesLink(row.method));
}

function notesLink(method) {
  return element("a", { href: `#method-${method}`, on: { click: () => { byId(`method-${method}`).open = true; } } }, "notes");
}

function lines({ row, place }, { ranks, list }) {
  const plain = (column) => element("td", { class: column.first ? "first" : null }, column.text(column.value(row), row));
  const cells = list.map((column) => (column.one ? scoreCell(row, column) : plain(column)));
  const rank = ranks.map((column) => element("td", { class: "rank" }, column.text(column.value(row), row)));
  const line = element("tr", { class: row.role }, ...rank, nameCell(row, place), ...cells, paperCell(row));
  if (!state.open.has(place)) return [line];
  line.classList.add("open");
  return [line, element("tr", { class: "open" }, element("td", { class: "detail", colspan: ranks.length + list.length + 2 }, detail(row)))];
}

// The rows, with a heading before those of each table and before those that stand apart.
function body(rows, found) {
  const width = found.ranks.length + found.list.length + 2;
  const heading = (level, text) => element("tr", { class: level }, element("th", { colspan: width, scope: "rowgroup" }, element("span", {}, text)));
  const made = [];
  let last = {};
  for (const one of rows) {
    const { setting: place, role } = one.row;
    if (place !== last.place && data.settings.length > 1) made.push(heading("setting", data.settings[place].title));
    if (role !== "student" && (role !== last.role || place !== last.place)) made.push(heading("apart", APART[role]));
    last = { place, role };
    made.push(...lines(one, found));
  }
  return made;
}

function nothing(width) {
  const clear = element("button", { type: "button", on: { click: () => { byId("filters").reset(); show(); } } }, "Clear the filters");
  return element("tr", {}, element("td", { class: "empty", colspan: width }, "No row fits these filters. ", clear));
}

function show() {
  const chosen = visibleRows();
  const found = columns(chosen);
  const rows = sorted(chosen, found);
  byId("leaderboard").classList.toggle("ranked", found.ranks.length > 0);
  byId("leaderboard").tHead.replaceChildren(...heads(found, rows));
  byId("leaderboard").tBodies[0].replaceChildren(...(rows.length ? body(rows, found) : [nothing(found.list.length + 2)]));
  byId("count").textContent = `${count(rows.length)} of ${count(data.rows.length)} rows`;
  byId("compare").disabled = state.chosen.length !== 2;
  caption([...new Set(rows.map(({ row }) => row.setting))]);
}

// Above the table what it is ordered by; below it what holds for all tables once, then what is each one's own.
function caption(settings) {
  const ordered = (text) => /^(Ordered|Ranked) by /.test(text);
  const rule = data.rules[byId("checkpoint").value];
  const all = settings.map((place) => captionOf(place).filter((text) => !text.startsWith("Checkpoint ") && text !== `${data.settings[place].title}.`));
  const common = all.length ? all[0].filter((text) => all.every((other) => other.includes(text))) : [];
  const told = (texts) => texts.map((text) => element("li", {}, text));
  const order = settings.flatMap((place, index) => all[index].filter((text) => ordered(text) && !common.includes(text)).map((text) => `${data.settings[place].title}: ${text}`));
  byId("order").replaceChildren(...[...common.filter(ordered), ...order].map((text) => element("p", {}, text)));
  const own = settings.map((place, index) => [data.settings[place].title, all[index].filter((text) => !common.includes(text) && !ordered(text))]).filter(([, texts]) => texts.length);
  byId("caption").replaceChildren(
    element("ul", {}, ...told([`Checkpoint ${byId("checkpoint").value}: ${rule || "the network as it was given"}.`, ...common.filter((text) => !ordered(text))])),
    ...own.flatMap(([title, texts]) => [element("p", {}, element("b", {}, title)), element("ul", {}, ...told(texts))]),
  );
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
  const box = document.querySelector(`[data-row="${place}"]`).closest(".line").querySelector("input");
  box.focus();
}

// An open row

function headline(row) {
  const there = Object.keys(row.scores[checkpointOf(row)] || {});
  return [byId("attack").value, rankingOf(row.setting).attack, ...there].find((name) => there.includes(name)) || null;
}

function detail(row) {
  const body = element("div", { class: "detail-body" });
  const fill = (attack) => {
    const parts = [];
    if (attack) {
      const select = element("select", { "aria-label": "Attack of the opened row", on: { change: (event) => fill(event.target.value) } },
        ...Object.keys(row.scores[checkpointOf(row)]).map((name) => element("option", { value: name, selected: name === attack }, titles.get(name))));
      parts.push(element("p", {}, select, ` ${count(row.images[attack])} images, checkpoint ${checkpointOf(row)}`));
      parts.push(element("div", { class: "panels" }, classPanel(row, attack), scorePanel(row, attack), seedPanel(row, attack), curvePanel(row), ...temperaturePanels(row)));
    }
    parts.push(element("div", { class: "panels" }, factPanel(row), specPanel(row)));
    body.replaceChildren(...parts);
  };
  fill(headline(row));
  return body;
}

function classPanel(row, attack) {
  const names = setting(row).classes;
  const values = classesOf(row, attack).map(([value, low, high], place) => ({ name: names[place], images: row.class_images[attack][place], value, low, high })).filter(({ value }) => value !== null);
  const order = [...values].sort((one, other) => one.value - other.value);
  const chart = bars(order.map(({ name, images, ...one }) => ({ name, marks: [one] })), `Accuracy of each class of ${row.variant} under ${titles.get(attack)}`, [row.variant]);
  const numbers = table(["class", "images", "accuracy", "95% over test samples"], order.map(({ name, images, value, low, high }) => [name, count(images), shown(value), bounds(low, high)]));
  return section("Classes, hardest first", chart, element("details", {}, element("summary", {}, "Numbers"), numbers));
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

function methodFact(row) {
  const known = data.methods[row.method];
  return known ? element("span", {}, `${row.method}: ${known.reference} `, notesLink(row.method)) : row.method;
}

function factPanel(row) {
  const trial = (row.trials || [])[0] || {};
  const versions = Object.entries(trial.versions || {}).map(([name, version]) => `${name} ${version}`).join(", ");
  const rows = [
    ["method", methodFact(row)], ["network", row.student], ["teacher", row.teacher], ["seeds", row.seed_list], ["training, a trial", row.train_hours ? duration(row.train_hours) : null], ["evaluation, a trial", row.eval_hours ? duration(row.eval_hours) : null],
    ["peak memory, MiB", row.peak_memory_mb], ["tuning trials", row.tuning_trials],
    ["robust test score at the honest epoch", row.honest_score], ["at the last epoch", row.last_score], ["peeked: at the epoch best on the test set", row.peeked_score],
    ["trained on", trial.train_device], ["evaluated on", trial.device], ["sha256 of its teacher's weights", trial.teacher_sha256], ["sha256 of the weights it started from", trial.init_sha256], ["versions", versions], ["git commit", trial.git_commit], ["code fingerprint", trial.code_fingerprint],
    ["trials", (row.trials || []).map((one) => one.trial_id).join(", ")], ["missing", row.missing],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  const lines = rows.map(([name, value]) => [name, value instanceof Node ? value : element("span", {}, typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : String(value))]);
  const made = table(["", ""], lines);
  for (const one of made.querySelectorAll("td")) one.className = "text";
  made.querySelector("thead").remove();
  return section("Cost and provenance", made);
}

function methodNotes(name, { reference, notes, papers }) {
  const cited = papers.map(({ title, year, arxiv }) => element("li", {}, arxiv ? element("a", { href: `https://arxiv.org/abs/${arxiv}`, rel: "noreferrer" }, title) : title, year ? ` (${year})` : ""));
  const summary = element("summary", {}, element("b", {}, name), reference ? `: ${reference}` : "");
  return element("details", { id: `method-${name}` }, summary, element("pre", { class: "notes" }, notes), cited.length ? element("ul", {}, ...cited) : null);
}

function specPanel(row) {
  return section("Specification", element("pre", { tabindex: 0, "aria-label": `Specification of ${row.variant}` }, JSON.stringify(row.spec, null, 1)));
}

// Start

function options(id, pairs, chosen) {
  byId(id).replaceChildren(...pairs.map(([value, title]) => element("option", { value, selected: value === chosen }, title)));
  byId(id).addEventListener("change", show);
}

for (const name of ["dataset", "student", "eps"]) {
  const values = [...new Map(data.settings.map((one) => [String(one[name]), name === "eps" ? one.eps_text : one[name]]))];
  options(name, values.length > 1 ? [["", "all"], ...values] : values, "");
}
options("checkpoint", data.checkpoints.map((name) => [name, name]), data.checkpoint);
const narrow = window.innerWidth < 640 && data.settings.length ? rankingOf(0).attack : ""; // what rows are ordered by
options("attack", [["", "all"], ...data.attacks], narrow);
byId("find").addEventListener("input", show);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("compare").addEventListener("click", compare);
byId("download-csv").addEventListener("click", () => download("leaderboard.csv", csv(), "text/csv"));
byId("download-latex").addEventListener("click", () => download("leaderboard.tex", latex(), "text/x-tex"));
byId("notes").replaceChildren(...data.notes.map((note) => element("p", {}, note)));
byId("methods").replaceChildren(...Object.entries(data.methods).map(([name, about]) => methodNotes(name, about)));
byId("methods-of-the-rows").hidden = !Object.keys(data.methods).length;
show();
