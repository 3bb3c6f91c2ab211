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
  const chosen = visibleRows();
  const found = columns(chosen);
  const list = [...found.ranks, ...found.list];
  const head = ["dataset", "student", "eps", "role", "variant", "checkpoint", ...list.map(({ key }) => key)];
  const exact = (row, column) => { const value = column.value(row); return value === null ? "" : column.one || column.score ? value / SCALE : value; };
  const rows = sorted(chosen, found).map(({ row }) => [setting(row).dataset, row.student, setting(row).eps, row.role, row.variant, checkpointOf(row), ...list.map((column) => exact(row, column))]);
  return [head, ...rows].map((line) => line.map(csvText).join(",")).join("\n") + "\n";
}

function latex() {
  const chosen = visibleRows();
  const found = columns(chosen);
  const list = found.list.filter(({ one }) => one);
  const attacks = [...new Set(list.map(({ attack }) => attack))];
  const width = list.length / attacks.length;
  const marked = (row, column) => {
    const found = cell(row, column.attack, column.one.name);
    const text = found ? shown(found[0], column.one) : "--";
    return found && found[5] === 1 ? `\\textbf{${text}}` : found && found[5] === 2 ? `\\underline{${text}}` : text;
  };
  const rows = sorted(chosen, found);
  const caption = [...new Set(rows.map(({ row }) => row.setting))].map((place) => captionOf(place).filter((text) => !/^(Checkpoint|Against|Ordered by|Ranked by) /.test(text)).join(" ")).join(" ");
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
