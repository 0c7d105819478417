// A list on the screen. Rows are known by their key and cells are written in place, so that what has the focus keeps
// it while the figures around it change.

import { append, setText } from './dom.js';

export class Table {
  // onSort is told the server's name of the wanted order, onOrder an order and the row it is for.
  constructor(frame, list, { onSort, onOrder }) {
    Object.assign(this, { frame, list, onSort, onOrder, rows: new Map() });
    frame.textContent = '';
    this.element = append(frame, 'table', { role: 'table', class: 'of-' + list.caption.split(' ')[0].toLowerCase() });
    append(this.element, 'caption', { class: 'unseen' }, list.caption);
    const header = append(append(this.element, 'thead', { role: 'rowgroup' }), 'tr', { role: 'row' });
    this.headers = list.columns.map((column) => this.header(header, column));
    append(append(header, 'th', { scope: 'col', role: 'columnheader', class: 'orders' }), 'span', { class: 'unseen' }, 'Actions');
    this.body = append(this.element, 'tbody', { role: 'rowgroup' });
    this.empty = append(frame, 'p', { class: 'empty' });
  }

  header(tr, column) {
    const th = append(tr, 'th', { scope: 'col', role: 'columnheader', class: column.class ?? '' });
    if (!column.sort) {
      th.textContent = column.title;
      th.classList.add('unsortable');
      return th;
    }
    const button = append(th, 'button', { type: 'button', class: 'sort' }, column.title);
    button.addEventListener('click', () => {
      const descending = th.getAttribute('aria-sort') === 'ascending';
      this.onSort((descending !== Boolean(column.flip) ? '-' : '') + column.sort);
    });
    return th;
  }

  // show writes the rows of one page; cx is what cells and actions need to know beside their row.
  show(rows, sort, nothing, cx) {
    const focused = this.frame.contains(document.activeElement) ? document.activeElement : null;
    this.showSort(sort);
    const wanted = new Map(rows.map((row) => [this.list.key(row), row]));
    for (const [key, tr] of this.rows) {
      if (!wanted.has(key)) {
        tr.remove();
        this.rows.delete(key);
      }
    }
    let next = this.body.firstElementChild;
    for (const [key, row] of wanted) {
      let tr = this.rows.get(key);
      if (!tr) {
        tr = this.createRow();
        this.rows.set(key, tr);
      }
      if (tr === next) next = tr.nextElementSibling;
      else this.body.insertBefore(tr, next);
      this.updateRow(tr, row, cx);
    }
    setText(this.empty, rows.length ? '' : nothing);
    if (focused && focused !== document.activeElement) (focused.isConnected ? focused : this.frame).focus({ preventScroll: true });
  }

  showSort(sort) {
    const name = sort.replace(/^-/, '');
    this.list.columns.forEach((column, i) => {
      if (column.sort !== name) {
        this.headers[i].removeAttribute('aria-sort');
        return;
      }
      const descending = sort.startsWith('-') !== Boolean(column.flip);
      this.headers[i].setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    });
  }

  createRow() {
    const tr = document.createElement('tr');
    tr.setAttribute('role', 'row');
    this.list.columns.forEach((column, i) => {
      const cell = append(tr, i ? 'td' : 'th', { role: i ? 'cell' : 'rowheader', class: column.class ?? '', 'data-title': column.title });
      if (!i) cell.setAttribute('scope', 'row');
    });
    append(tr, 'td', { role: 'cell', class: 'orders' });
    return tr;
  }

  updateRow(tr, row, cx) {
    this.list.columns.forEach((column, i) => column.cell(tr.children[i], row, cx));
    const cell = tr.lastElementChild;
    const actions = this.list.actions(row, cx);
    while (cell.children.length > actions.length) cell.lastElementChild.remove();
    actions.forEach((action, i) => {
      const button = cell.children[i] ?? append(cell, 'button', { type: 'button' });
      setText(button, action.label);
      button.setAttribute('aria-label', `${action.label} ${action.about}`);
      button.disabled = Boolean(action.disabled);
      button.onclick = () => this.onOrder(action.order, row);
    });
  }
}
