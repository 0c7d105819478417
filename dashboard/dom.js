// What all of the page uses to write into itself. Whatever comes from a peer goes through textContent, never as HTML.

export const byId = (id) => document.getElementById(id);

export function append(parent, name, attributes = {}, text = '', namespace = 'http://www.w3.org/1999/xhtml') {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// only returns the one child of an element, which stays the same over updates, so that it keeps the focus.
export const only = (parent, name, attributes) => parent.firstElementChild ?? append(parent, name, attributes);

// setBar shows how much of a maximum is used.
export function setBar(bar, used, capacity) {
  const share = capacity > 0 ? Math.min(1, used / capacity) : 0;
  only(bar, 'div').style.width = `${share * 100}%`;
  bar.dataset.level = share >= 1 ? 'full' : share >= 0.9 ? 'high' : 'normal';
}
