'use strict';

// The confusion matrix, for report.js, which follows in the page.
// Positions are those of data.order; the view is in positions, and scale in pixels for each.

const LINE_HEIGHT = 13;
const NAMES_FROM = 13.5; // pixels of a cell
const COUNTS_FROM = 26;
const LARGEST = 48;
const GROUPS_ABOVE_FROM = 4;
const STEPS = 32; // of each colour

function readCells() {
  const rank = new Array(data.order.length);
  data.order.forEach((label, position) => (rank[label] = position));
  const totals = new Array(rank.length).fill(0);
  const cells = [];
  for (let index = 0; index < data.cells.length; index += 3) {
    const [truth, predicted, count] = data.cells.slice(index, index + 3);
    totals[rank[truth]] += count;
    cells.push({ row: rank[truth], column: rank[predicted], count });
  }
  for (const cell of cells) {
    cell.share = cell.count / totals[cell.row];
    cell.step = Math.round((STEPS * Math.log1p(100 * cell.share)) / Math.log(101));
  }
  // Where several share a pixel, the largest is drawn last and stays.
  cells.sort((a, b) => a.share - b.share);
  return { cells, totals, at: new Map(cells.map((cell) => [cell.row * rank.length + cell.column, cell])) };
}

function setUpMatrix() {
  const canvas = find('canvas');
  const drawn = document.createElement('canvas'); // all but the mark of the cell pointed at
  const size = data.order.length;
  const names = data.order.map((label) => data.names[label]);
  const groupNames = data.groups.map(([name]) => name);
  const { cells, totals, at } = readCells();
  const view = { x: 0, y: 0, scale: 1 };
  const box = { available: 0, left: 0, top: 0, side: 0, fit: 1, ratio: 1 };
  const pressed = new Map();
  const shortened = new Map();
  const hideRight = find('hide-right');
  let colours = {};
  let pointed = null;
  let awaiting = false;
  let scrolledAt = -Infinity;

  function resolve(colour) {
    canvas.style.color = `var(${colour})`;
    return getComputedStyle(canvas).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  }

  function readColours() {
    const used = ['--surface', '--text', '--muted', '--line', '--series-1', '--series-2'];
    const [surface, text, muted, line, right, wrong] = used.map(resolve);
    const css = (rgb) => `rgb(${rgb.map(Math.round).join()})`;
    const light = ([r, g, b]) => 0.3 * r + 0.59 * g + 0.11 * b;
    const ramp = (series) =>
      Array.from({ length: STEPS + 1 }, (_, step) => {
        const amount = 0.25 + (0.75 * step) / STEPS;
        const mixed = surface.map((value, channel) => value + amount * (series[channel] - value));
        const far = (other) => Math.abs(light(mixed) - light(other));
        return { fill: css(mixed), ink: css(far(text) > far(surface) ? text : surface) };
      });
    colours = { surface: css(surface), text: css(text), muted: css(muted), line: css(line) };
    Object.assign(colours, { right: ramp(right), wrong: ramp(wrong) });
  }

  function pen(target) {
    const context = target.getContext('2d');
    context.setTransform(box.ratio, 0, 0, box.ratio, 0, 0);
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = 'middle';
    return context;
  }

  function layOut() {
    const available = find('matrix').clientWidth;
    // The bars of a phone's browser come and go as one scrolls, and change the height alone.
    if (!available || (available === box.available && devicePixelRatio === box.ratio)) return;
    const zoomed = view.scale / box.fit;
    const context = pen(drawn);
    box.available = available;
    const longest = Math.max(...[...names, ...groupNames].map((name) => context.measureText(name).width));
    const margin = (most) => Math.ceil(Math.max(84, Math.min(longest + 14, most)));
    box.left = margin(Math.max(96, 0.18 * available));
    box.top = margin(Math.max(120, 0.11 * available));
    box.side = Math.min(available - box.left - 1, Math.max(260, 0.85 * innerHeight - box.top), 96 * size);
    box.side = Math.max(Math.floor(box.side), 1);
    box.fit = box.side / size;
    box.ratio = devicePixelRatio;
    for (const one of [canvas, drawn]) {
      one.width = Math.round((box.left + box.side + 1) * box.ratio);
      one.height = Math.round((box.top + box.side + 1) * box.ratio);
    }
    canvas.style.width = `${box.left + box.side + 1}px`;
    shortened.clear();
    setView(view.x, view.y, box.fit * zoomed);
    draw();
  }

  const inRange = (scale) => Math.min(Math.max(scale, box.fit), Math.max(box.fit, LARGEST));

  function setView(x, y, scale) {
    view.scale = inRange(scale);
    const last = size - box.side / view.scale;
    view.x = Math.min(Math.max(x, 0), last);
    view.y = Math.min(Math.max(y, 0), last);
    // A finger on the whole matrix scrolls the page.
    canvas.style.touchAction = isZoomed() ? 'none' : 'pan-x pan-y';
    if (awaiting) return;
    awaiting = true;
    requestAnimationFrame(draw);
  }

  const isZoomed = () => view.scale > box.fit * 1.0001;
  const xOf = (column) => box.left + (column - view.x) * view.scale;
  const yOf = (row) => box.top + (row - view.y) * view.scale;
  const snap = (pixels) => Math.round(pixels * box.ratio) / box.ratio;

  function zoom(factor, x = box.left + box.side / 2, y = box.top + box.side / 2) {
    const scale = inRange(view.scale * factor);
    const change = 1 / view.scale - 1 / scale;
    setView(view.x + (x - box.left) * change, view.y + (y - box.top) * change, scale);
  }

  function draw() {
    awaiting = false;
    const context = pen(drawn);
    context.fillStyle = colours.surface;
    context.fillRect(0, 0, drawn.width, drawn.height);
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.side, box.side);
    context.clip();
    // On small cells the lines of groups would hide the diagonal.
    const above = view.scale >= GROUPS_ABOVE_FROM;
    if (!above) drawGroups(context);
    drawCells(context);
    if (view.scale >= NAMES_FROM) drawLines(context, colours.line, [...names.keys()]);
    if (above) drawGroups(context);
    context.restore();
    context.strokeStyle = colours.muted;
    context.strokeRect(box.left - 0.5, box.top - 0.5, box.side + 1, box.side + 1);
    drawAxes(context);
    mark();
  }

  function drawCells(context) {
    const side = Math.max(snap(view.scale), 1 / box.ratio);
    const hidden = (at) => at < -view.scale || at > box.side;
    context.textAlign = 'center';
    for (const { row, column, count, step } of cells) {
      const [x, y] = [snap(xOf(column)), snap(yOf(row))];
      if (hidden(x - box.left) || hidden(y - box.top) || (row === column && hideRight.checked)) continue;
      const { fill, ink } = (row === column ? colours.right : colours.wrong)[step];
      context.fillStyle = fill;
      context.fillRect(x, y, side, side);
      if (view.scale < COUNTS_FROM) continue;
      context.fillStyle = ink;
      context.fillText(whole.format(count), x + side / 2, y + side / 2, side - 4);
    }
  }

  const drawGroups = (context) => drawLines(context, colours.muted, data.groups.map(([, first]) => first));

  function drawLines(context, colour, positions) {
    const inside = (at) => at > 0 && at < box.side;
    context.fillStyle = colour;
    context.globalAlpha = 0.45;
    for (const [x, y] of positions.map((position) => [snap(xOf(position)), snap(yOf(position))])) {
      if (inside(x - box.left)) context.fillRect(x, box.top, 1, box.side);
      if (inside(y - box.top)) context.fillRect(box.left, y, box.side, 1);
    }
    context.globalAlpha = 1;
  }

  function drawAxes(context) {
    context.fillStyle = colours.muted;
    context.textAlign = 'right';
    context.fillText('predicted →', box.left - 8, box.top - 26);
    context.fillText('truth ↓', box.left - 8, box.top - 10);
    context.fillStyle = colours.text;
    const single = (name, position) => [name, position, position + 1];
    for (const [name, first, end] of view.scale < NAMES_FROM ? data.groups : names.map(single)) {
      const [left, right] = [first, end].map((at) => Math.min(Math.max(xOf(at), box.left), box.left + box.side));
      const [top, bottom] = [first, end].map((at) => Math.min(Math.max(yOf(at), box.top), box.top + box.side));
      if (bottom - top > LINE_HEIGHT) drawName(context, name, box.left, box.left - 8, (top + bottom) / 2, 0);
      if (right - left > LINE_HEIGHT) drawName(context, name, box.top, (left + right) / 2, box.top - 8, -Math.PI / 2);
    }
  }

  function drawName(context, name, room, x, y, angle) {
    context.save();
    context.translate(x, y);
    context.rotate(angle);
    context.textAlign = angle ? 'left' : 'right';
    // Isolated, so that a name from right to left ends where it should.
    context.fillText(`\u2068${shorten(context, name, room - 14)}\u2069`, 0, 0);
    context.restore();
  }

  function shorten(context, name, width) {
    const key = `${width} ${name}`;
    if (!shortened.has(key)) {
      const fits = (text) => context.measureText(text).width <= width;
      // What tells names of the same words apart stays, if there is room.
      const [tail] = name.match(/ \(\S{1,12}\)$/) ?? [''];
      const end = fits(`…${tail}`) ? tail : '';
      const start = [...name.slice(0, name.length - end.length)].slice(0, LONGEST_NAME);
      let text = name;
      while (start.length && !fits(text)) {
        start.pop();
        text = `${start.join('').trimEnd()}…${end}`;
      }
      shortened.set(key, text);
    }
    return shortened.get(key);
  }

  function mark() {
    const context = pen(canvas);
    context.drawImage(drawn, 0, 0, drawn.width / box.ratio, drawn.height / box.ratio);
    if (!pointed) return;
    const side = Math.max(view.scale, 6);
    const [x, y] = [xOf(pointed.column + 0.5), yOf(pointed.row + 0.5)];
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.side, box.side);
    context.clip();
    context.fillStyle = colours.muted;
    context.globalAlpha = 0.5;
    if (view.scale < NAMES_FROM) {
      context.fillRect(box.left, y - 0.5, box.side, 1);
      context.fillRect(x - 0.5, box.top, 1, box.side);
    }
    context.globalAlpha = 1;
    context.strokeStyle = colours.text;
    context.lineWidth = 2;
    context.strokeRect(x - side / 2, y - side / 2, side, side);
    context.restore();
  }

  function point(row, column) {
    pointed = { row, column };
    const count = at.get(row * size + column)?.count ?? 0;
    const share = totals[row] ? ` (${percent(count / totals[row])})` : '';
    const taken = row === column ? [' recognised'] : [' taken for ', nameOf(data.order[column])];
    const told = `: ${whole.format(count)} of ${whole.format(totals[row])}${share}`;
    find('cell').replaceChildren(nameOf(data.order[row]), ...taken, told);
    if (!awaiting) mark();
  }

  function pointAt(x, y) {
    const column = Math.floor(view.x + (x - box.left) / view.scale);
    const row = Math.floor(view.y + (y - box.top) / view.scale);
    if (x < box.left || y < box.top || row >= size || column >= size) return;
    // Cells of few pixels are hard to hit: the largest near the pointer is meant.
    const reach = view.scale < 6 ? Math.ceil(3 / view.scale) : 0;
    let best = { row, column, share: 0 };
    for (let r = row - reach; r <= row + reach; r += 1) {
      for (let c = Math.max(column - reach, 0); c <= Math.min(column + reach, size - 1); c += 1) {
        const cell = r === c && hideRight.checked ? undefined : at.get(r * size + c);
        if (cell?.share > best.share) best = cell;
      }
    }
    point(best.row, best.column);
  }

  function position({ clientX, clientY }) {
    const bounds = canvas.getBoundingClientRect();
    return [clientX - bounds.left, clientY - bounds.top];
  }

  function onMove(event) {
    const [x, y] = position(event);
    const before = pressed.get(event.pointerId);
    if (!before) return pointAt(x, y);
    pressed.set(event.pointerId, [x, y]);
    const other = [...pressed].find(([id]) => id !== event.pointerId)?.[1];
    const apart = (from) => Math.max(Math.hypot(from[0] - other[0], from[1] - other[1]), 1);
    if (other) zoom(apart([x, y]) / apart(before), ...other);
    else setView(view.x - (x - before[0]) / view.scale, view.y - (y - before[1]) / view.scale, view.scale);
  }

  function onWheel(event) {
    const out = event.deltaY > 0;
    // A page that is being scrolled does not stop at the matrix, nor does zooming out of the whole of it hold the page.
    if (!event.ctrlKey && (event.timeStamp - scrolledAt < 300 || (out && !isZoomed()))) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
    zoom(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), ...position(event));
  }

  function onKey(event) {
    // Rows and columns.
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const [down, along] = { ...moves, Home: [0, -size], End: [0, size] }[event.key] ?? [0, 0];
    const factor = { '+': 1.6, '=': 1.6, '-': 1 / 1.6, 0: 0 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!down && !along && factor === undefined)) return;
    event.preventDefault();
    const cell = (at) => Math.min(Math.max(Math.floor(at), 0), size - 1);
    const shown = box.side / view.scale;
    const from = pointed ?? { row: cell(view.y + shown / 2), column: cell(view.x + shown / 2) };
    const step = event.shiftKey ? 10 : 1;
    const [row, column] = [cell(from.row + step * down), cell(from.column + step * along)];
    reveal(row, column);
    if (factor !== undefined) zoom(factor, xOf(column + 0.5), yOf(row + 0.5));
    point(row, column);
  }

  function reveal(row, column) {
    const shown = box.side / view.scale;
    const near = (from, cell) => Math.min(Math.max(from, cell + 1 - shown), cell);
    setView(near(view.x, column), near(view.y, row), view.scale);
  }

  canvas.addEventListener('pointermove', onMove);
  canvas.addEventListener('pointerdown', (event) => {
    pressed.set(event.pointerId, position(event));
    canvas.setPointerCapture(event.pointerId);
    pointAt(...position(event));
  });
  for (const end of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(end, ({ pointerId }) => pressed.delete(pointerId));
  }
  canvas.addEventListener('wheel', onWheel, { passive: false });
  canvas.addEventListener('keydown', onKey);
  for (const button of document.querySelectorAll('[data-zoom]')) {
    button.addEventListener('click', () => zoom(Number(button.dataset.zoom)));
  }
  hideRight.addEventListener('change', draw);
  addEventListener('scroll', ({ timeStamp }) => (scrolledAt = timeStamp));
  addEventListener('resize', layOut);
  readColours();
  layOut();
  return () => {
    readColours();
    draw();
  };
}
