// The table of all layers: sorted by a click on a heading, filtered by path or kind, a page at a time.

{
  const PAGE = 50; // rows in the document at once: thousands would take longer to lay out than to find
  const SVG = "http://www.w3.org/2000/svg";
  const rows = REPORT.layers.map((row, index) => Object.assign(row, { index }));
  const text = (row) => `${row[PATH]} ${REPORT.kinds[row[KIND]]}`.toLowerCase();
  const uncertainty = (row) => (row[HIGH] - row[LOW]) / (row[ENERGY] || 1e-300);
  const mark = (row) => (row[FLAGS] & 1 ? " *" : "") + (row[FLAGS] & 2 ? " †" : "");

  const whole = (energy) => quantity(energy, "J").replace(" ", "\u00a0"); // a unit stays with its number
  const widest = rows.reduce((most, row) => Math.max(most, row[HIGH]), 0) || 1; // arguments of one call are limited

  /** The energy as a bar and its interval as a line over it, on one scale for all layers. */
  function bar(row) {
    const drawing = document.createElementNS(SVG, "svg");
    const at = (value) => `${(100 * value) / widest}%`;
    drawing.setAttribute("class", "reach");
    drawing.setAttribute("aria-hidden", "true");
    drawing.append(shape("rect", { class: `energy ${colour(row[KIND])}`, width: at(row[ENERGY]), height: 12 }));
    drawing.append(shape("line", { x1: at(row[LOW]), x2: at(row[HIGH]), y1: 6, y2: 6 }));
    return drawing;
  }

  function shape(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // heading, what it sorts by, what it shows, classes; `wide` columns are left out on a phone, `wider` on a tablet too
  const COLUMNS = [
    ["#", (row) => row.index, (row) => String(row.index), "n wide wider"],
    ["layer", text, (row) => row[PATH] || "(top level)", "path"],
    ["kind", (row) => REPORT.kinds[row[KIND]], (row) => REPORT.kinds[row[KIND]] + mark(row), "kind wide"],
    ["output", (row) => row[OUTPUT], (row) => row[OUTPUT], "wide wider"],
    ["FLOP", (row) => row[FLOP], (row) => quantity(row[FLOP], ""), "n wide"],
    ["of FLOP", (row) => row[FLOP], (row) => percent(row[FLOP] / TOTAL.flop), "n wide wider"],
    ["time", (row) => row[TIME], (row) => quantity(row[TIME], "s"), "n wide wider"],
    ["energy", (row) => row[ENERGY], (row) => quantity(row[ENERGY], "J"), "n"],
    ["of energy", (row) => row[ENERGY], (row) => percent(row[ENERGY] / TOTAL.energy), "n"],
    ["interval", uncertainty, (row) => `${whole(row[LOW])} – ${whole(row[HIGH])}`, "n interval"],
    ["low to high", (row) => row[HIGH], bar, "wide reaches"],
  ];

  const body = document.querySelector("#table tbody");
  const headings = document.querySelector("#table thead tr");
  const filter = document.getElementById("filter");
  const [back, next] = ["back", "next"].map((id) => document.getElementById(id));
  let [column, falling, page, chosen] = [7, true, 0, rows];

  COLUMNS.forEach(([name, , , classes], index) => {
    const heading = element("th", classes);
    const button = element("button", "", name);
    heading.scope = "col";
    button.type = "button";
    button.addEventListener("click", () => {
      falling = index === column ? !falling : classes.startsWith("n") && index > 0;
      column = index;
      choose();
    });
    heading.append(button);
    headings.append(heading);
  });

  function choose() {
    const key = COLUMNS[column][1];
    const wanted = filter.value.trim().toLowerCase();
    chosen = wanted ? rows.filter((row) => text(row).includes(wanted)) : [...rows];
    chosen.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (falling ? -1 : 1) || a.index - b.index);
    page = 0;
    draw();
  }

  function cell(row, [name, , show, classes]) {
    const content = show(row);
    if (name !== "layer") {
      const made = element("td", classes);
      made.append(content);
      return made;
    }
    const made = element("th", classes);
    made.scope = "row";
    made.append(...breakable(content), ...leftOut(row));
    return made;
  }

  /** Lines that say of a row what columns do that are left out where there is little room. */
  function leftOut(row) {
    const [phone, tablet] = [element("span", "kind narrow"), element("span", "kind narrow tablet")];
    phone.append(...breakable(REPORT.kinds[row[KIND]] + mark(row)), `, ${quantity(row[FLOP], "FLOP")}`);
    tablet.append(`${row[OUTPUT]}, ${quantity(row[TIME], "s")}`);
    return [phone, tablet];
  }

  /** A path or a kind that may break behind its dots and underscores. */
  function breakable(path) {
    return path.split(/(?<=[._])/).flatMap((part) => [part, element("wbr")]);
  }

  function draw() {
    const drawn = chosen.slice(PAGE * page, PAGE * (page + 1)).map((row) => {
      const line = element("tr");
      line.append(...COLUMNS.map((each) => cell(row, each)));
      return line;
    });
    body.replaceChildren(...drawn);
    [...headings.children].forEach((heading, index) => {
      if (index === column) heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    const energy = chosen.reduce((sum, row) => sum + row[ENERGY], 0);
    document.getElementById("shown").textContent =
      `${chosen.length} of ${rows.length} layers, ${quantity(energy, "J")}, ${percent(energy / TOTAL.energy)} of the energy`;
    document.getElementById("page").textContent =
      `page ${page + 1} of ${pages}: rows ${PAGE * page + 1} to ${Math.min(PAGE * (page + 1), chosen.length)}`;
    document.getElementById("pages").hidden = pages === 1;
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
  }

  function turn(step) {
    page += step;
    draw();
    if (back.disabled) next.focus(); // the button pressed is disabled at an end and would drop it
    if (next.disabled) back.focus();
    document.getElementById("layers").scrollIntoView();
  }

  filter.addEventListener("input", choose);
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.getElementById("layers").hidden = false;
  choose();
  performance.mark("interactive");
}
