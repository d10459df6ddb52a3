// The icicle: a box for each module, as wide as its energy; the calls of operators are the leaves.

{
  const ROW = 30; // px, high enough for a thumb
  const THIN = 2; // px; narrower neighbours share one grey box, so that widths still sum to the parent's
  const chart = document.getElementById("icicle");
  const told = document.getElementById("told");
  const whole = document.getElementById("whole");

  const root = { name: REPORT.network, path: "", kind: -1, energy: 0, flop: 0, children: [], parent: null };
  const modules = new Map([["", root]]);

  function child(parent, name, path, kind) {
    const node = { name, path, kind, energy: 0, flop: 0, children: [], parent };
    parent.children.push(node);
    return node;
  }

  function moduleAt(path) {
    if (!modules.has(path)) {
      const cut = path.lastIndexOf(".");
      modules.set(path, child(moduleAt(cut < 0 ? "" : path.slice(0, cut)), path.slice(cut + 1), path, -1));
    }
    return modules.get(path);
  }

  function add(leaf, energy, flop) {
    for (let node = leaf; node; node = node.parent) {
      node.energy += energy;
      node.flop += flop;
    }
  }

  for (const row of REPORT.layers)
    add(child(moduleAt(row[PATH]), REPORT.kinds[row[KIND]], row[PATH], row[KIND]), row[ENERGY], row[FLOP]);
  if (REPORT.gap_j) {
    const name = REPORT.kinds.find((kind) => kind.startsWith("(")) || "(launch gaps)";
    add(child(root, name, name, REPORT.kinds.indexOf(name)), REPORT.gap_j, 0);
  }
  settle(root);

  /** A module that only makes calls of one kind is drawn as one such call, under the module's name. */
  function settle(node) {
    node.children.forEach(settle);
    const kinds = new Set(node.children.map((next) => next.kind));
    if (node.parent && kinds.size === 1 && !kinds.has(-1) && node.children.every((next) => next.path === node.path)) {
      node.kind = node.children[0].kind;
      node.children = [];
    }
  }

  const depth = (node) => 1 + node.children.reduce((most, next) => Math.max(most, depth(next)), 0);

  function says(node) {
    const kind = node.kind >= 0 ? REPORT.kinds[node.kind] : "";
    const name = [node.path || node.name, node.path === kind ? "" : kind].filter(Boolean).join(" · ");
    return `${name}: ${quantity(node.energy, "J")}, ${percent(node.energy / TOTAL.energy)} of the energy, ` +
      `${percent(node.flop / TOTAL.flop)} of the FLOP`;
  }

  let focus = root; // what fills the width
  let current = root; // what the keyboard is on
  const boxes = new Map();
  let widthPx = 0; // read once a drawing: asking between insertions would lay the page out for each box
  let drawn = document.createDocumentFragment();

  function box(node, left, width, row) {
    const made = element("button", node.kind < 0 ? "module" : colour(node.kind));
    made.type = "button";
    made.style.left = `${100 * left}%`;
    made.style.width = `${100 * width}%`;
    made.style.top = `${ROW * row}px`;
    made.tabIndex = -1;
    made.setAttribute("aria-label", says(node));
    if (width * widthPx > 26) made.textContent = node.name;
    made.dataset.path = node.path;
    made.dataset.row = row;
    boxes.set(node, made);
    made.node = node;
    drawn.append(made);
  }

  function crumbs(nodes, says, left, width, row) {
    const made = element("span", "crumbs");
    made.style.left = `${100 * left}%`;
    made.style.width = `${100 * width}%`;
    made.style.top = `${ROW * row}px`;
    made.title = `${nodes} narrow ${nodes === 1 ? "box" : "boxes"}: ${says}`;
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", made.title);
    made.dataset.row = row;
    drawn.append(made);
  }

  function below(node, left, width, row) {
    const where = node === focus ? "listed under Layers" : "zoom in to see more";
    let [thin, start, at] = [0, left, left];
    const close = () => {
      if (thin) crumbs(thin, where, start, at - start, row);
      thin = 0;
    };
    for (const next of node.children) {
      const share = node.energy ? (width * next.energy) / node.energy : 0;
      if (share * widthPx < THIN) {
        if (!thin++) start = at;
      } else {
        close();
        box(next, at, share, row);
        below(next, at, share, row + 1);
      }
      at += share;
    }
    close();
  }

  function draw() {
    const held = chart.contains(document.activeElement);
    widthPx = chart.clientWidth;
    drawn = document.createDocumentFragment();
    boxes.clear();
    const above = [];
    for (let node = focus; node; node = node.parent) above.unshift(node);
    above.forEach((node, row) => box(node, 0, 1, row));
    below(focus, 0, 1, above.length);
    chart.replaceChildren(drawn);
    chart.style.height = `${ROW * (above.length + depth(focus) - 1)}px`;
    whole.disabled = focus === root;
    while (!boxes.has(current)) current = current.parent; // too thin at this width; the whole network never is
    boxes.get(current).tabIndex = 0;
    if (held) boxes.get(current).focus({ preventScroll: true });
    tell(current);
  }

  function tell(node) {
    told.textContent = says(node);
  }

  function zoom(node) {
    focus = node;
    current = node;
    draw();
  }

  function move(node) {
    if (!node || !boxes.has(node)) return;
    boxes.get(current)?.setAttribute("tabindex", "-1");
    current = node;
    boxes.get(node).tabIndex = 0;
    boxes.get(node).focus();
  }

  function beside(node, step) {
    const siblings = (node.parent ? node.parent.children : [node]).filter((sibling) => boxes.has(sibling));
    return siblings[siblings.indexOf(node) + step];
  }

  const KEYS = {
    ArrowLeft: () => move(beside(current, -1)),
    ArrowRight: () => move(beside(current, 1)),
    ArrowUp: () => move(current.parent),
    ArrowDown: () => move(current.children.find((next) => boxes.has(next))),
    Escape: () => zoom(focus.parent || root),
  };

  chart.addEventListener("click", (event) => {
    const node = event.target.node;
    if (node) zoom(node === focus && node.parent ? node.parent : node);
  });
  chart.addEventListener("keydown", (event) => {
    if (!KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  chart.addEventListener("focusin", (event) => event.target.node && tell((current = event.target.node)));
  chart.addEventListener("mouseover", (event) => event.target.node && tell(event.target.node));
  whole.addEventListener("click", () => {
    zoom(root);
    boxes.get(root).focus({ preventScroll: true }); // the button is disabled now and would drop it
  });

  told.parentElement.hidden = false;
  draw();
  // which boxes are too thin and which have room for a name depends on the width
  new ResizeObserver(() => chart.clientWidth === widthPx || draw()).observe(chart);
}
