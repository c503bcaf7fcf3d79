for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => { const n = row.cells[i].querySelector("data"); return n ? Number(n.value) : row.cells[i].textContent; };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const empty = (value) => value === "" ? 1 : 0;
      const order = (a, b) => empty(a) - empty(b) || sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      body.append(...[...body.rows].sort((a, b) => order(key(a, i), key(b, i))));
    });
  });
}

const hidden = new Set();
const hide = (svg) => svg.querySelectorAll("[data-run]").forEach((each) => { each.style.visibility = hidden.has(each.dataset.run) ? "hidden" : ""; });
const toggle = (place, text, isPressed, act) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "toggle";
  button.append(text);
  button.setAttribute("aria-pressed", isPressed);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    act(now);
  });
  place.append(button);
};

for (const other of document.querySelectorAll("template.scale")) {
  const figure = other.closest("figure"), place = document.createElement("div");
  const pictures = [figure.querySelector("svg"), other.content.firstElementChild];
  other.replaceWith(place);
  toggle(place, "Logarithmic axis", other.dataset.scale === "linear", () => {
    pictures[0].replaceWith(pictures[1]);
    pictures.reverse();
    hide(pictures[0]);
  });
}

const runs = document.querySelector(".runs");
for (const run of runs ? runs.querySelectorAll("li") : []) {
  const text = [...run.childNodes];
  toggle(run, "", true, (isShown) => {
    if (isShown) hidden.delete(run.dataset.run); else hidden.add(run.dataset.run);
    document.querySelectorAll("figure svg").forEach(hide);
  });
  run.lastElementChild.append(...text);
}
if (runs) runs.hidden = false;

const ring = document.createElement("div"), label = document.createElement("div");
ring.className = "ring";
label.className = "value";
ring.hidden = label.hidden = true;
ring.ariaHidden = label.ariaHidden = "true";
document.body.append(ring, label);
const forget = () => { ring.hidden = label.hidden = true; };
document.addEventListener("pointerleave", forget);
document.addEventListener("scroll", forget, true);
document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest("svg[data-points]");
  forget();
  if (!svg) return;
  const toScreen = svg.getScreenCTM();
  let nearest = 24;
  for (const [run, x, y, text] of JSON.parse(svg.dataset.points)) {
    if (hidden.has(String(run))) continue;
    const at = new DOMPoint(x, y).matrixTransform(toScreen), distance = Math.hypot(at.x - event.clientX, at.y - event.clientY);
    if (distance >= nearest) continue;
    nearest = distance;
    ring.hidden = label.hidden = false;
    label.textContent = text;
    ring.style.left = `${at.x}px`;
    ring.style.top = `${at.y}px`;
    label.style.left = `${Math.max(4, Math.min(at.x + 12, innerWidth - label.offsetWidth - 8))}px`;
    label.style.top = `${at.y > 60 ? at.y - label.offsetHeight - 10 : at.y + 14}px`;
  }
});
