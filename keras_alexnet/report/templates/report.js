'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const LONGEST_NAME = 150; // characters
const find = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en');

function element(name, className = '', text = '') {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// As in the tables. Only what is all or nothing is 100 % or 0 %.
function percent(share) {
  if (share === null) return '–';
  const text = (100 * share).toFixed(1);
  if (text === '0.0') return share > 0 ? '< 0.1 %' : '0 %';
  if (text === '100.0') return share < 1 ? '> 99.9 %' : '100 %';
  return `${text} %`;
}

// An element of its own: a name that is written from right to left does not turn what is around it.
function nameOf(label) {
  const name = data.names[label];
  const characters = [...name];
  if (characters.length <= LONGEST_NAME) return element('bdi', '', name);
  const cut = element('bdi', '', `${characters.slice(0, LONGEST_NAME).join('')}…`);
  cut.title = name;
  return cut;
}

for (const scripted of document.querySelectorAll('[data-scripted]')) scripted.hidden = false;
for (const unscripted of document.querySelectorAll('[data-unscripted]')) unscripted.hidden = true;

// Theme. Nothing is stored: the next visit follows the system again.

const systemDark = matchMedia('(prefers-color-scheme: dark)');
const printing = matchMedia('print');

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === 'dark' : systemDark.matches;
}

function setUpTheme(onChange) {
  const button = find('theme');
  const changed = () => {
    button.textContent = isDark() ? 'Light theme' : 'Dark theme';
    onChange();
  };
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
    changed();
  });
  systemDark.addEventListener('change', changed);
  printing.addEventListener('change', changed);
  changed();
}

// Table of classes: sorting and search.

function setUpTable() {
  const table = find('class-table');
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  let rows = [...body.rows];
  // The HTML hides the rows beyond this number.
  const mostShown = rows.filter((row) => !row.hidden).length;
  const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });

  function sort(column) {
    const header = headers[column];
    const direction = header.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    const compare = header.dataset.kind === 'text' ? collator.compare : (a, b) => a - b;
    const value = (cell) => cell.dataset.value ?? cell.textContent;
    const keyed = rows.map((row) => [value(row.cells[column]), row]);
    const full = keyed.filter(([key]) => key !== '').sort(([a], [b]) => direction * compare(a, b));
    const empty = keyed.filter(([key]) => key === '');
    rows = [...full, ...empty].map(([, row]) => row);
    body.append(...rows);
    search();
    for (const other of headers) other.removeAttribute('aria-sort');
    header.setAttribute('aria-sort', direction === 1 ? 'ascending' : 'descending');
  }

  headers.forEach((header, column) => {
    const button = element('button', '', header.textContent);
    button.type = 'button';
    button.addEventListener('click', () => sort(column));
    header.replaceChildren(button);
  });

  const searched = [...headers.keys()].filter((column) => 'searched' in headers[column].dataset);
  const textOf = (row) => searched.map((column) => row.cells[column].textContent).join('\n').toLowerCase();
  const texts = new Map(rows.map((row) => [row, textOf(row)]));
  function search() {
    const wanted = find('search').value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      const matches = texts.get(row).includes(wanted);
      row.hidden = !matches || found >= mostShown;
      if (matches) found += 1;
    }
    const rest = found > mostShown ? `; the first ${whole.format(mostShown)} are shown` : '';
    find('found').textContent = `${whole.format(found)} of ${whole.format(rows.length)} classes${rest}`;
  }
  find('search').addEventListener('input', search);
  search();
}

// Examples: the dialog.

function setUpExamples() {
  const viewer = find('viewer');
  const figures = [...document.querySelectorAll('figure[data-example]')];
  const openers = figures.map(makeOpener);
  let current = 0;

  function makeOpener(figure, index) {
    const picture = figure.querySelector('.picture');
    const caption = figure.querySelector('figcaption').textContent.replace(/\s+/g, ' ');
    const opener = element('button');
    opener.type = 'button';
    opener.setAttribute('aria-label', `Example ${index + 1}: ${caption.trim()}`);
    opener.addEventListener('click', () => {
      show(index);
      viewer.showModal();
    });
    picture.replaceWith(opener);
    opener.append(picture);
    return opener;
  }

  function bar([label, probability], truth) {
    const item = element('li', label === truth ? 'right' : '');
    const filled = element('span', 'bar');
    filled.style.setProperty('--share', probability ?? 0);
    const name = element('span');
    name.append(nameOf(label), label === truth ? ' (truth)' : '');
    item.append(name, element('span', 'number', percent(probability)), filled);
    return item;
  }

  function show(index) {
    current = index;
    const { truth, truthProbability, best } = data.examples[index];
    const image = figures[index].querySelector('img');
    find('viewer-picture').hidden = !image;
    find('viewer-none').hidden = Boolean(image);
    if (image) find('viewer-picture').src = image.src;
    find('viewer-picture').alt = data.names[truth];
    find('viewer-title').textContent = `Example ${index + 1} of ${figures.length}`;
    find('viewer-truth').replaceChildren(nameOf(truth), ` (${percent(truthProbability)})`);
    find('viewer-path').textContent = figures[index].dataset.path;
    find('viewer-best').replaceChildren(...best.map((one) => bar(one, truth)));
    // Not disabled: the one that was pressed would lose the focus to the page behind.
    find('viewer-previous').ariaDisabled = index === 0;
    find('viewer-next').ariaDisabled = index === figures.length - 1;
  }

  function step(by) {
    if (figures[current + by]) show(current + by);
  }

  find('viewer-previous').addEventListener('click', () => step(-1));
  find('viewer-next').addEventListener('click', () => step(1));
  find('viewer-close').addEventListener('click', () => viewer.close());
  viewer.addEventListener('keydown', ({ key }) => step({ ArrowLeft: -1, ArrowRight: 1 }[key] ?? NaN));
  viewer.addEventListener('click', ({ target }) => target === viewer && viewer.close());
  viewer.addEventListener('close', () => {
    figures[current].closest('details')?.setAttribute('open', '');
    openers[current].focus();
  });
}

// What is folded on the screen is printed with the rest.
function setUpPrinting() {
  const folded = [...document.querySelectorAll('details')];
  let open = [];
  printing.addEventListener('change', () => {
    if (printing.matches) open = folded.map((one) => one.open);
    folded.forEach((one, index) => (one.open = printing.matches || open[index]));
  });
}

setUpTable();
setUpExamples();
setUpPrinting();
setUpTheme(setUpMatrix());
