'use strict';

for (const scripted of document.querySelectorAll('[data-scripted]')) scripted.hidden = false;
for (const unscripted of document.querySelectorAll('[data-unscripted]')) unscripted.hidden = true;

// Theme. Nothing is stored: the next visit follows the system again.

function setUpTheme(button) {
  const systemDark = matchMedia('(prefers-color-scheme: dark)');
  const { dataset } = document.documentElement;
  const isDark = () => (dataset.theme ? dataset.theme === 'dark' : systemDark.matches);
  const show = () => (button.textContent = isDark() ? 'Light theme' : 'Dark theme');
  button.addEventListener('click', () => {
    dataset.theme = isDark() ? 'light' : 'dark';
    show();
  });
  systemDark.addEventListener('change', show);
  show();
}

// Tables: a click on a heading sorts, and a table may have a field for searching.

function setUpTable(table, field, found) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  let rows = [...body.rows];
  // The HTML hides the rows beyond this number.
  const mostShown = rows.filter((row) => !row.hidden).length;
  const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
  const whole = new Intl.NumberFormat('en');

  function sort(column) {
    const header = headers[column];
    const direction = header.ariaSort === 'ascending' ? -1 : 1;
    const compare = header.dataset.kind === 'text' ? collator.compare : (a, b) => a - b;
    const keyed = rows.map(({ cells }, index) => [cells[column].dataset.value ?? cells[column].textContent, index]);
    const full = keyed.filter(([key]) => key !== '').sort(([a], [b]) => direction * compare(a, b));
    const empty = keyed.filter(([key]) => key === '');
    rows = [...full, ...empty].map(([, index]) => rows[index]);
    body.append(...rows);
    for (const other of headers) other.ariaSort = other === header ? (direction === 1 ? 'ascending' : 'descending') : null;
    search();
  }

  headers.forEach((header, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...header.childNodes);
    button.addEventListener('click', () => sort(column));
    header.append(button);
  });

  const searched = [...headers.keys()].filter((column) => 'searched' in headers[column].dataset);
  const textOf = (row) => searched.map((column) => row.cells[column].textContent).join('\n').toLowerCase();
  const texts = new Map(rows.map((row) => [row, textOf(row)]));
  function search() {
    const wanted = field.value.trim().toLowerCase();
    const matching = rows.filter((row) => texts.get(row).includes(wanted));
    for (const row of rows) row.hidden = true;
    for (const row of matching.slice(0, mostShown)) row.hidden = false;
    const rest = matching.length > mostShown ? `; the first ${whole.format(mostShown)} are shown` : '';
    found.textContent = `${whole.format(matching.length)} of ${whole.format(rows.length)} classes${rest}`;
  }
  field.addEventListener('input', search);
  search();
}

// What is folded on the screen is printed with the rest.

function setUpPrinting(folded) {
  let open = [];
  matchMedia('print').addEventListener('change', ({ matches }) => {
    if (matches) open = folded.map((one) => one.open);
    folded.forEach((one, index) => (one.open = matches || open[index]));
  });
}

setUpTheme(document.getElementById('theme'));
setUpTable(...['class-table', 'search', 'found'].map((id) => document.getElementById(id)));
setUpPrinting([...document.querySelectorAll('details.more')]);
