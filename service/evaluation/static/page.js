// Sorting and filtering; without it the page shows all cases, the worst first.
const list = document.getElementById("case-list");
const cases = [...list.querySelectorAll("details.case")];
const [words, outcome, order] = ["words", "outcome", "order"].map((name) => document.getElementById(name));
const count = document.getElementById("count");
const texts = new Map(cases.map((one) => [one, one.textContent.toLowerCase()]));

const difference = (one) => Number(one.getAttribute(`data-${order.value.split(" ")[0]}`) || 0);
const kind = (value) => (value > 1e-9 ? "win" : value < -1e-9 ? "loss" : "tie");

function show() {
  const wanted = words.value.trim().toLowerCase();
  const sign = order.value.endsWith("best") ? -1 : 1;
  list.append(...[...cases].sort((left, right) => sign * (difference(left) - difference(right))));
  let shown = 0;
  for (const one of cases) {
    const fits = outcome.value === "all" || kind(difference(one)) === outcome.value;
    one.hidden = !(fits && texts.get(one).includes(wanted));
    shown += !one.hidden;
  }
  count.textContent = `${shown} of ${cases.length} cases`;
}

words.addEventListener("input", show);
outcome.addEventListener("change", show);
order.addEventListener("change", show);
document.getElementById("controls").hidden = false;
count.textContent = `${cases.length} of ${cases.length} cases`;
