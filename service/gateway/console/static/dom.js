// Building and finding elements.

export const byId = (id) => document.getElementById(id);

/** An element with these properties (`class` and attributes with a dash included) and children. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Sets a node's text, if it is another: what does not change is not announced or laid out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Keeps one child of `parent` for each item, by its key, in their order; `make` makes one, `update` shows an item. */
export function keep(parent, items, keyOf, make, update) {
  const known = (parent.keptNodes ??= new Map());
  const keys = new Set(items.map(keyOf));
  for (const [key, entry] of known) {
    if (!keys.has(key)) {
      entry.node.remove();
      known.delete(key);
    }
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (!known.has(key)) known.set(key, make(item));
    const entry = known.get(key);
    if (parent.children[index] !== entry.node) parent.insertBefore(entry.node, parent.children[index] ?? null);
    update(entry, item);
  });
}

/** Copies a text and says so on the button; without the clipboard, which wants https, it selects the text instead. */
export async function copy(button, source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl+C";
  }
  clearTimeout(button.backAgain);
  button.backAgain = setTimeout(() => (button.textContent = "Copy"), 2000);
}
