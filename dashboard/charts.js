// The graphs of the last hour: SVG lines under HTML labels, each with its figures and a summary in words.

import { append, setText } from './dom.js';
import { clock, count, duration, plural } from './format.js';

const svgNamespace = 'http://www.w3.org/2000/svg';
const span = 3600; // seconds on the time axis, which ends now

const charts = [
  {
    title: 'Load',
    series: [{ key: 'load', name: 'Used', area: true }, { key: 'capacity', name: 'Capacity' }],
    summary: ({ load, capacity }, past) =>
      `Now ${count(last(load))} ${last(capacity) < 0 ? 'slots used, no limit' : `of ${count(last(capacity))} slots`}; ` +
      `between ${count(Math.min(...load))} and ${count(Math.max(...load))} in the last ${past}.`,
  },
  {
    title: 'Publishes per minute',
    perMinute: true,
    series: [{ key: 'publishes', name: 'Publishes', area: true }, { key: 'denials', name: 'Denials', alarming: true }],
    summary: ({ publishes, denials }, past) => `${plural(sum(publishes), 'publish', 'publishes')} and ${plural(sum(denials), 'denial')} in the last ${past}.`,
  },
  {
    title: 'Events waiting',
    series: [{ key: 'eventsPending', name: 'Waiting', area: true }],
    summary: ({ eventsPending }, past) =>
      `Now ${count(last(eventsPending))}; at most ${count(Math.max(...eventsPending))} in the last ${past}.`,
  },
];

// createCharts fills the frame and returns what shows a history of the overview, now being the server's time.
export function createCharts(frame) {
  const drawn = charts.map((chart, i) => new Chart(frame, chart, `chart-${i}`));
  return (history, now) => drawn.forEach((chart) => chart.show(history, now));
}

class Chart {
  constructor(frame, chart, id) {
    this.chart = chart;
    const figure = append(frame, 'figure');
    append(figure, 'h3', { id }, chart.title);
    const legend = append(figure, 'p', { class: 'legend', 'aria-hidden': 'true' });
    this.figures = chart.series.map((series) => {
      const entry = append(legend, 'span', { class: lineClass(series) }, series.name + ' ');
      return append(entry, 'b');
    });
    this.when = append(legend, 'span', { class: 'when' });

    const plot = append(figure, 'div', { class: 'plot' });
    this.svg = append(plot, 'svg', {
      role: 'img', 'aria-labelledby': id, 'aria-describedby': id + '-summary', preserveAspectRatio: 'none', viewBox: `0 0 ${span} 100`,
    }, '', svgNamespace);
    for (const y of [0, 50, 100]) this.shape('line', { class: 'grid', x1: 0, x2: span, y1: y, y2: y });
    this.paths = chart.series.map((series) => ({
      area: series.area && this.shape('path', { class: 'area ' + lineClass(series) }),
      line: this.shape('path', { class: 'line ' + lineClass(series) }),
    }));
    this.cursor = this.shape('line', { class: 'cursor', y1: 0, y2: 100, visibility: 'hidden' });
    this.scale = ['top', 'middle', 'bottom'].map((at) => append(plot, 'span', { class: 'y ' + at, 'aria-hidden': 'true' }));
    const axis = append(figure, 'p', { class: 'axis', 'aria-hidden': 'true' });
    for (const text of ['−1 h', '−45 min', '−30 min', '−15 min', 'now']) append(axis, 'span', {}, text);
    this.summary = append(figure, 'figcaption', { id: id + '-summary' });

    plot.addEventListener('pointermove', (event) => {
      const box = this.svg.getBoundingClientRect();
      this.pointed = (1 - (event.clientX - box.left) / box.width) * span; // seconds ago
      this.point();
    });
    plot.addEventListener('pointerleave', () => {
      this.pointed = undefined;
      this.point();
    });
  }

  shape(name, attributes) {
    return append(this.svg, name, { 'vector-effect': 'non-scaling-stroke', ...attributes }, '', svgNamespace);
  }

  show(history, now) {
    const lists = this.chart.series.map(({ key }) => (this.chart.perMinute ? withinMinute(history[key], history.stepSeconds) : history[key]));
    Object.assign(this, { lists, stepSeconds: history.stepSeconds, now });
    const points = lists[0].length;
    const top = roundTop(Math.max(1, ...lists.flat()));
    this.chart.series.forEach((series, i) => {
      const { line, area } = this.paths[i];
      const d = this.path(lists[i], top);
      line.setAttribute('d', d);
      if (area) area.setAttribute('d', points ? `${d}V100H${this.x(0, points)}Z` : '');
    });
    [top, top / 2, 0].forEach((value, i) => setText(this.scale[i], value % 1 ? '' : count(value)));
    const past = points * history.stepSeconds >= span ? 'hour' : duration(points * history.stepSeconds);
    setText(this.summary, points ? this.chart.summary(history, past) : 'Nothing recorded yet.');
    this.point();
  }

  x(i, points) {
    return span - (points - 1 - i) * this.stepSeconds;
  }

  // path leaves a gap where a value is negative: there is no limit, so no line.
  path(values, top) {
    let d = '';
    let pen = 'M';
    values.forEach((value, i) => {
      if (value < 0) {
        pen = 'M';
        return;
      }
      d += `${pen}${this.x(i, values.length)} ${(100 - (value / top) * 100).toFixed(2)}`;
      pen = 'L';
    });
    return d;
  }

  // point writes the figures of the moment that is pointed at, or of now.
  point() {
    if (!this.lists) return;
    const points = this.lists[0].length;
    const ago = this.pointed === undefined ? 0 : Math.round(this.pointed / this.stepSeconds);
    const i = Math.min(points - 1, Math.max(0, points - 1 - ago));
    this.figures.forEach((figure, n) => {
      const value = this.lists[n][i];
      setText(figure, value === undefined ? '–' : value < 0 ? 'no limit' : count(value));
    });
    const shown = this.pointed !== undefined && points > 0;
    setText(this.when, shown ? clock(new Date(this.now - (points - 1 - i) * this.stepSeconds * 1000)) : '');
    this.cursor.setAttribute('visibility', shown ? 'visible' : 'hidden');
    this.cursor.setAttribute('x1', this.x(i, points));
    this.cursor.setAttribute('x2', this.x(i, points));
  }
}

const lineClass = (series) => (series.area ? 'main' : series.alarming ? 'alarming' : 'limit');

const last = (values) => values.at(-1);
const sum = (values) => values.reduce((a, b) => a + b, 0);

// withinMinute counts for each point what came in the minute before it.
function withinMinute(values, stepSeconds) {
  const steps = Math.round(60 / stepSeconds);
  return values.map((_, i) => sum(values.slice(Math.max(0, i + 1 - steps), i + 1)));
}

// roundTop gives the end of a scale: 1, 2, 4, 5 or 10 times a power of ten.
function roundTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((n) => n * power).find((top) => top >= value);
}
