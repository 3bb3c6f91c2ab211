// Elements, numbers and charts. All text goes in as text nodes.

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

// A name in parts between which a line may break: never inside a word.
const wordsOf = (name) => name.split(/(?<=[\s_\-=,/:.+@)\]])/);
const breakable = (name) => wordsOf(name).flatMap((part, place) => (place ? [document.createElement("wbr"), part] : [part]));
const room = (name) => `min-width: min(${Math.ceil(1.15 * Math.max(...wordsOf(name).map(({ length }) => length)) + 2)}ch, 60vw)`; // for the longest word

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
const duration = (hours) => { // as the tables have it
  if (hours === null || hours === undefined) return missing;
  const minutes = Math.round(60 * hours);
  if (3600 * hours < 100) return `${Math.round(3600 * hours)} s`;
  return minutes < 100 ? `${minutes} min` : hours < 100 ? `${hours.toFixed(1)} h` : `${count(hours)} h`;
};
const count = (value) => Math.round(value).toLocaleString("en");
const signed = (value, one) => (value > 0 ? "+" : "") + shown(value, one);

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
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

// From blue (low) over grey to orange (high), of middling lightness: legible on white and on black.
const shade = (part) => `hsl(${part < 0.5 ? 215 : 28} ${Math.round(20 + 130 * Math.abs(part - 0.5))}% 52%)`;
