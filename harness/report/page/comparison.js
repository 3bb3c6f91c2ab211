// Two variants, first minus second. Colours and arrows say which way a difference that stands goes.

function compared(first, second) {
  const straight = data.pairs[`${first}-${second}`];
  if (straight) return { pair: straight, sign: 1 };
  const turned = data.pairs[`${second}-${first}`];
  return turned ? { pair: turned, sign: -1 } : null;
}

const turn = (sign, low, high) => (low === null || low === undefined ? [null, null] : sign > 0 ? [low, high] : [-high, -low]);

// stands: null where a difference is not judged.
function direction(change, up, stands) {
  if (stands === null || change === null) return element("span", { class: "mark" }, missing);
  if (!stands) return element("span", { class: "mark" }, "≈ noise");
  const better = change > 0 === up;
  return element("span", { class: better ? "better" : "worse" }, better ? "↑ better" : "↓ worse");
}

// Over what a difference is that is not over all of both rows; empty for others.
const narrower = ({ seeds, sides }) => (seeds ? `over seed${seeds.includes(" ") ? "s" : ""} ${seeds}` : sides ? "over the seeds and teachers that both have" : "");

function comparisonTable(found, sign) {
  const lines = data.attacks.filter(([name]) => found[name]).flatMap(([name, title]) => ["average", "worst", "nsd"].map((key, place) => {
    const [change, low, high, seedLow, seedHigh, stands] = found[name].metrics[place];
    const one = metric(key);
    const over = narrower(found[name]) && ` (${narrower(found[name])})`;
    return [`${title} ${one.title}`, change === null ? missing : signed(sign * change, one) + over, direction(change === null ? null : sign * change, one.up, stands), bounds(...turn(sign, low, high), one) || missing, bounds(...turn(sign, seedLow, seedHigh), one) || missing];
  }));
  return table(["", "difference", "", "95% test samples", "95% seeds"], lines);
}

// Which classes gain and which lose, largest first: [{ name, change, low, high, p }].
function classChanges(found, sign, names) {
  return found.classes.map(fine).map(([change, low, high, p], place) => {
    const [from, to] = turn(sign, low, high);
    return { name: names[place], change: change === null ? null : sign * change, low: from, high: to, p };
  }).filter(({ change }) => change !== null);
}

const differs = ({ p }) => p !== null && p < 0.05 * SCALE;

function inWords(changes, first, second, over) {
  const told = (some) => some.map((one) => `${one.name} (${signed(one.change)} ${bounds(one.low, one.high)}${differs(one) ? "" : ", noise"})`.replace(" ,", ",")).join(", ");
  const gains = changes.filter(({ change }) => change > 0).sort((one, other) => other.change - one.change).slice(0, 3);
  const losses = changes.filter(({ change }) => change < 0).sort((one, other) => one.change - other.change).slice(0, 3);
  const standing = changes.filter(differs);
  const [up, down] = [true, false].map((gain) => standing.filter(({ change }) => change > 0 === gain).length);
  const verdict = standing.length ? `Of ${changes.length} classes, ${up} gain and ${down} lose beyond the noise.` : `None of ${changes.length} classes differs beyond the noise.`;
  return [
    `${verdict} With ${first.variant} in place of ${second.variant}, ${over && `${over}, `}in points of accuracy:`,
    gains.length ? `gain most: ${told(gains)};` : "no class gains;",
    losses.length ? `lose most: ${told(losses)}.` : "no class loses.",
  ].join(" ");
}

function classComparison(first, second, found, sign, attack) {
  const [one, other] = [first, second].map((row, place) => {
    const common = found && found.sides && found.sides[sign > 0 ? place : 1 - place]; // as the differences are
    return common ? common.map(fine) : classesOf(row, attack);
  });
  const names = setting(first).classes;
  const order = one.map((_, place) => place).filter((place) => one[place][0] !== null && other[place] && other[place][0] !== null).sort((a, b) => other[a][0] - other[b][0]);
  const pack = ([value, low, high]) => ({ value, low, high });
  const chart = bars(order.map((place) => ({ name: names[place], marks: [pack(one[place]), pack(other[place])] })), `Classes of ${first.variant} and ${second.variant} under ${titles.get(attack)}`, [first.variant, second.variant]);
  const key = element("p", { class: "key" }, element("span", { class: "box bar" }), first.variant, element("span", { class: "box bar-two" }), second.variant);
  if (!found) return [key, chart];
  const changes = classChanges(found, sign, names);
  const lines = [...changes].sort((a, b) => b.change - a.change).map((one) => [one.name, signed(one.change), direction(one.change, true, one.p === null ? null : differs(one)), bounds(one.low, one.high), one.p === null ? missing : one.p < SCALE / 10000 ? "< 0.0001" : (one.p / SCALE).toFixed(4)]);
  return [element("p", { class: "words" }, inWords(changes, first, second, narrower(found))), key, chart, table(["class", "difference", "", "95%", "p (Holm)"], lines)];
}

// How the numbers of a comparison are to be read, said once.
function rules(found) {
  return element("p", { class: "mark" }, `↑ better, ↓ worse: a difference that stands, over seeds and over test samples, corrected for all that the table marks; ≈ noise: one that does not; ${missing}: not judged. Intervals hold each by itself. Test samples: ${found.pairing || "not compared"}. Classes: ${narrower(found) && `bars and differences ${narrower(found)}, `}intervals over ${found.over}; p is corrected for looking at every class (Holm), and a class stands where it is below 0.05.`);
}

// Why two rows of one data set and eps have no difference under an attack.
function uncompared(first, second, attack) {
  if (first.setting !== second.setting && ![first, second].some(({ role }) => role === "teacher")) return `${first.student} and ${second.student} are different networks: a difference would not be the methods' alone.`;
  const [some, others] = [first, second].map((row) => (row.trials || []).filter(({ scores }) => (scores[checkpointOf(row)] || {})[attack]));
  const paired = (one, other) => one.seed === other.seed && (one.teacher_seed === null || other.teacher_seed === null || one.teacher_seed === other.teacher_seed);
  const common = checkpointOf(first) === checkpointOf(second) && some.some((one) => others.some((other) => paired(one, other)));
  if (!common) return `The two have no results under ${titles.get(attack) || "any attack"} for a common seed and teacher: there is no difference to take.`;
  return "This pair was not tested beforehand: too many variants. Report fewer trials to have its intervals.";
}

// Two rows of one name are told apart by their networks.
const toldApart = (...rows) => (rows[0].variant !== rows[1].variant || rows[0].student === rows[1].student ? rows : rows.map((row) => ({ ...row, variant: `${row.variant} ${row.student}` })));

function compare() {
  const [left, right] = state.chosen;
  const [first, second] = toldApart(data.rows[left], data.rows[right]);
  const box = byId("comparison");
  const close = element("button", { type: "button", on: { click: () => { box.hidden = true; byId("compare").focus(); } } }, "Close");
  const parts = [element("h2", {}, ...breakable(`${first.variant} minus ${second.variant}`))];
  const shared = ["dataset", "eps"].every((name) => setting(first)[name] === setting(second)[name]);
  if (!shared) parts.push(element("p", {}, "These two do not share data set and eps: their numbers cannot be compared."));
  else {
    const pairs = compared(left, right);
    const attack = headline(first);
    const found = pairs && (pairs.pair[byId("checkpoint").value] || pairs.pair.given);
    const classes = attack && classesOf(first, attack) && classesOf(second, attack) ? classComparison(first, second, found && found[attack], pairs ? pairs.sign : 1, attack) : [];
    if (classes.length) parts.push(element("h3", {}, `Classes under ${titles.get(attack)}`), ...classes);
    const there = found && found[attack];
    if (!there) parts.push(element("p", {}, uncompared(first, second, attack), classes.length ? " The classes are drawn above, each variant's over its own seeds and with its own intervals." : ""));
    if (found) parts.push(element("h3", {}, "Average, worst class and NSD"), comparisonTable(found, pairs.sign));
    if (there) parts.push(rules(there));
  }
  box.replaceChildren(...parts, close);
  box.hidden = false;
  box.focus();
  box.scrollIntoView({ block: "nearest" });
}
