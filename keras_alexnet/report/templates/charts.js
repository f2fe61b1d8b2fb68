'use strict';

// The charts. Python has laid them out; the confusion matrix gets its cells here, for the part in view only, since
// all pairs of some thousand classes would take a browser minutes.

const MAX_BLOCKS = 180; // along each side, a few pixels each
const MAX_COUNTED = 25; // classes along each side up to which cells show their counts
const charts = JSON.parse(document.getElementById('charts').textContent);
const config = { displaylogo: false, doubleClick: 'reset', responsive: true, showTips: false };
config.modeBarButtons = [['zoomIn2d', 'zoomOut2d', 'resetScale2d'], ['zoom2d', 'pan2d']];
const touched = matchMedia('(pointer: coarse)').matches;

function draw(id, { data, layout }, more = {}) {
  const plot = document.getElementById(id);
  if (touched) layout.dragmode = false;
  // A finger scrolls the page, unless the tool for zooming or moving has been chosen.
  const leave = (event) => plot.layout.dragmode || event.stopPropagation();
  plot.addEventListener('touchstart', leave, { capture: true, passive: true });
  return Plotly.newPlot(plot, data, layout, { ...config, ...more });
}

function readCells() {
  const totals = new Array(charts.names.length).fill(0);
  const cells = [];
  for (let index = 0; index < charts.cells.length; index += 3) {
    const [truth, predicted, count] = charts.cells.slice(index, index + 3);
    totals[truth] += count;
    cells.push({ truth, predicted, count });
  }
  for (const cell of cells) cell.share = cell.count / totals[cell.truth];
  return { cells, totals };
}

function setUpMatrix() {
  const { names } = charts;
  const plot = document.getElementById('matrix-chart');
  const { cells, totals } = readCells();

  function describe({ truth, predicted, count, share }) {
    const what = truth === predicted ? 'recognized' : `predicted as ${names[predicted]}`;
    return `${names[truth]} ${what}:<br>${count} of ${totals[truth]} (${percent(share)})`;
  }

  const clamp = (end) => Math.round(Math.min(Math.max(end, -0.5), names.length - 0.5) + 0.5);

  function blocks(range) {
    const [low, high] = range.map(clamp).sort((a, b) => a - b);
    const step = Math.max(Math.ceil((high - low) / MAX_BLOCKS), 1);
    const first = Math.floor(low / step) * step;
    return { first, step, number: Math.ceil((high - first) / step), at: (label) => Math.floor((label - first) / step) };
  }

  // As many names as there is room for.
  function ticks(range) {
    const [low, high] = range.map(clamp).sort((a, b) => a - b);
    const step = Math.max(Math.ceil((24 * (high - low)) / plot.clientWidth), 1);
    const tickvals = Array.from({ length: Math.ceil((high - low) / step) }, (_, index) => low + step * index);
    return { tickvals, ticktext: tickvals.map((label) => names[label]) };
  }

  // A block shows the cell of its largest share, so that no confusion is hidden before one zooms in.
  function partIn(xRange, yRange) {
    const [across, down] = [blocks(xRange), blocks(yRange)];
    const filled = (value) => Array.from({ length: down.number }, () => new Array(across.number).fill(value));
    const [z, text, hovertext] = [null, '', ''].map((value) => [filled(value), filled(value)]);
    for (const cell of cells) {
      const [row, column, kind] = [down.at(cell.truth), across.at(cell.predicted), Number(cell.truth === cell.predicted)];
      if (row < 0 || column < 0 || row >= down.number || column >= across.number) continue;
      const value = Math.log1p(100 * cell.share) / Math.log(101);
      if (z[kind][row][column] >= value) continue;
      z[kind][row][column] = value;
      text[kind][row][column] = cell.count;
      hovertext[kind][row][column] = describe(cell);
    }
    const counted = Math.max(across.number, down.number) <= MAX_COUNTED;
    const [x0, y0] = [across, down].map(({ first, step }) => first + (step - 1) / 2);
    return { z, text, hovertext, x0, y0, dx: across.step, dy: down.step, texttemplate: counted ? '%{text}' : '' };
  }

  const { data, layout } = charts.confusion;
  if (plot.clientWidth < 560) {
    data[0].showscale = false;
    layout.modebar.orientation = 'h';
    layout.xaxis.title.text = '';
    layout.margin = { l: 0, r: 0, t: 45, b: 45 };
  }
  function show() {
    const { xaxis, yaxis } = plot.layout;
    const [across, down] = [ticks(xaxis.range), ticks(yaxis.range)];
    const named = { 'xaxis.tickvals': across.tickvals, 'xaxis.ticktext': across.ticktext };
    Object.assign(named, { 'yaxis.tickvals': down.tickvals, 'yaxis.ticktext': down.ticktext });
    return Plotly.update(plot, partIn(xaxis.range, yaxis.range), named, [0, 1]);
  }
  draw(plot.id, charts.confusion, { displayModeBar: true }).then(show);
  plot.on('plotly_relayout', show);
}

// As in the tables. Only what is all or nothing is 100% or 0%.
function percent(share) {
  const text = (100 * share).toFixed(1);
  if (text === '0.0') return '< 0.1%';
  if (text === '100.0') return share < 1 ? '> 99.9%' : '100%';
  return `${text}%`;
}

charts.curves.forEach((figure, number) => draw(`curves-chart-${number}`, figure));
draw('calibration-chart', charts.calibration);
setUpMatrix();

// Paper is narrower than the window. Plotly.Plots.resize would come too late.
matchMedia('print').addEventListener('change', ({ matches }) => {
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    const size = matches ? { width: plot.clientWidth, height: plot.clientHeight } : { width: null, height: null };
    Plotly.relayout(plot, { ...size, autosize: !matches });
  }
});
