// What the lists show: their columns, in the order of the screen, and what can be done with a row.
// A column's sort is the server's name for it; flip marks one whose figures grow as the server's values fall.
// A list whose answer or search has other names than its own says so with path, rows and ask; ask gives nothing if there is nothing
// to ask for. Its sort is the one to begin with, if that is not the first column's.

import { append, only, setBar, setText } from './dom.js';
import { announced, bytes, count, duration, join, moment, plural } from './format.js';

const connectedFor = { title: 'Connected for', sort: 'since', flip: true, cell: (td, row, { now }) => setText(td, age(row, now)) };

const when = { title: 'When', sort: 'at', cell: (td, row, { now }) => setText(td, moment(new Date(row.at), new Date(now))) };
const why = { title: 'Why', class: 'why', cell: (td, row) => setText(td, row.reason) };

// Shown while there are gateways.
const gateway = { title: 'Gateway', sort: 'gateway', class: 'id gateway', cell: (td, row) => setLink(td, row.gateway.slice(0, 8), listOf('gateways', row.gateway), 'none') };

export const lists = {
  streams: {
    caption: 'Streams',
    search: 'Search by channel or ID',
    empty: 'No streams are live.',
    key: (row) => row.streamId,
    columns: [
      { title: 'Channel', sort: 'channel', class: 'name', cell: (td, row) => setLink(td, row.channel, listOf('timeline', row.channel)) },
      { title: 'State', sort: 'state', cell: (td, row) => setBadge(td, row.state) },
      { title: 'Live for', class: 'age', sort: 'since', flip: true, cell: (td, row, { now }) => setText(td, age(row, now)) },
      { title: 'Encoder', sort: 'encoder', class: 'id', cell: (td, row) => setLink(td, row.encoder, listOf('encoders', row.encoder)) },
      { title: 'Server', sort: 'server', class: 'id', cell: (td, row) => setLink(td, row.streamServer, listOf('servers', row.streamServer)) },
      { title: 'Announced', class: 'announced', cell: (td, row) => setAnnounced(td, row.announced) },
      { title: 'Stream ID', class: 'id whole', cell: (td, row) => setText(td, row.streamId) },
    ],
    actions: (row, { ordered }) =>
      row.state === 'closing' ? [] : [{ order: 'close', label: ordered.has(row.streamId) ? 'Closing' : 'Close', about: row.channel, disabled: ordered.has(row.streamId) }],
  },

  encoders: {
    caption: 'Encoders',
    search: 'Search by ID, address or state',
    empty: 'No encoder is connected.',
    key: (row) => row.id,
    columns: [
      { title: 'Encoder', sort: 'id', class: 'id', cell: (td, row) => setText(td, String(row.id)) },
      { title: 'Address', sort: 'address', class: 'id', cell: (td, row) => setText(td, row.address || '–') },
      { title: 'State', sort: 'state', cell: (td, row) => setBadge(td, encoderState(row)) },
      { title: 'Slots used', sort: 'load', class: 'slots', cell: (td, row) => setSlots(td, row) },
      { title: 'Capacity', sort: 'capacity', class: 'number', cell: (td, row) => setText(td, row.capacity < 0 ? 'no limit' : count(row.capacity)) },
      gateway,
      connectedFor,
      { title: 'Maintenance', class: 'progress', cell: (td, row, cx) => setProgress(td, row, row.serving, row.load ? 'may be stopped' : 'empty', cx) },
    ],
    actions: (row) =>
      row.draining
        ? [{ order: 'undrain', label: 'Undrain', about: `encoder ${row.id}` }, ...(row.serving > 0 && !row.moving ? [{ order: 'move', label: 'Move streams', about: `of encoder ${row.id}` }] : [])]
        : [{ order: 'drainEncoder', label: 'Drain', about: `encoder ${row.id}` }],
  },

  servers: {
    caption: 'Streaming servers',
    search: 'Search by ID, address or type',
    empty: 'No streaming server is connected.',
    key: (row) => row.id,
    columns: [
      { title: 'Server', sort: 'id', class: 'id', cell: (td, row) => setText(td, String(row.id)) },
      { title: 'Type', sort: 'type', cell: (td, row) => setText(td, row.serverType === 'WS' ? 'WebSocket' : row.serverType) },
      { title: 'State', cell: (td, row) => setBadge(td, row.draining ? 'draining' : 'ready') },
      { title: 'Address', sort: 'ip', class: 'id', cell: (td, row) => setText(td, address(row)) },
      { title: 'Streams', sort: 'streams', class: 'number', cell: (td, row) => setLink(td, row.streams && count(row.streams), listOf('streams', row.id), '0') },
      gateway,
      connectedFor,
      { title: 'Maintenance', class: 'progress', cell: (td, row, cx) => setProgress(td, row, row.streams, 'empty', cx) },
    ],
    actions: (row) =>
      row.draining
        ? [{ order: 'undrain', label: 'Undrain', about: `server ${row.id}` }]
        : [{ order: 'drainServer', label: 'Drain', about: `server ${row.id}` }],
  },

  // In the order of the server, which counts nothing and searches for whole names only.
  events: {
    caption: 'Undelivered events',
    search: 'Search by whole channel',
    parameter: 'channel',
    empty: 'The application has taken all events.',
    key: (row) => row.id,
    columns: [
      { title: 'Channel', class: 'name', cell: (td, row) => setText(td, row.channel) },
      { title: 'State', cell: (td, row) => setBadge(td, row.state) },
      { title: 'Type', cell: (td, row) => setText(td, row.type) },
      { title: 'Output', cell: (td, row) => setText(td, [row.streamType, row.resolution].filter(Boolean).join(' ')) },
      { title: 'Undelivered for', cell: (td, row, { now }) => setText(td, age(row, now)) },
      { title: 'Tries', class: 'number', cell: (td, row) => setText(td, count(row.tries)) },
      { title: 'Last answer', cell: (td, row) => setText(td, row.lastAnswer || '–') },
      { title: 'Next try', cell: (td, row, { now }) => setText(td, row.nextTry ? `in ${duration((Date.parse(row.nextTry) - now) / 1000)}` : '–') },
      { title: 'Event ID', class: 'id whole', cell: (td, row) => setText(td, row.id) },
    ],
    actions: (row) =>
      row.state === 'queued' ? [] : [{ order: 'retry', label: 'Try now', about: row.id }, { order: 'discard', label: 'Discard', about: row.id }],
  },

  gateways: {
    caption: 'Gateways',
    search: 'Search by ID, address or state',
    empty: 'No gateway is linked.',
    key: (row) => row.id,
    columns: [
      { title: 'Gateway', sort: 'id', class: 'id', cell: (td, row) => setText(td, row.id) },
      { title: 'State', sort: 'state', cell: (td, row) => setBadge(td, row.linked ? 'linked' : 'absent') },
      { title: 'For', sort: 'since', flip: true, cell: (td, row, { now }) => setText(td, age(row, now)) },
      { title: 'Address', sort: 'address', class: 'id', cell: (td, row) => setText(td, row.address || '–') },
      { title: 'Version', sort: 'version', cell: (td, row) => setText(td, row.version || '–') },
      { title: 'Servers', sort: 'servers', class: 'number', cell: (td, row) => setLink(td, row.streamingServers && count(row.streamingServers), listOf('servers', row.id), '0') },
      { title: 'Encoders', sort: 'encoders', class: 'number', cell: (td, row) => setLink(td, row.encoders && count(row.encoders), listOf('encoders', row.id), '0') },
      { title: 'Not acknowledged', sort: 'unacknowledged', class: 'number', cell: (td, row) => setText(td, bytes(row.unacknowledgedBytes)) },
      { title: 'From it', class: 'number', cell: (td, row) => setText(td, traffic(row.framesIn, row.bytesIn)) },
      { title: 'To it', class: 'number', cell: (td, row) => setText(td, traffic(row.framesOut, row.bytesOut)) },
    ],
    actions: () => [],
  },

  timeline: {
    caption: 'Timeline',
    search: 'Channel or stream ID, live or not',
    empty: 'Search for a channel or a stream ID: what was decided about it, and why.',
    path: 'timeline',
    rows: 'entries',
    sort: '-at',
    ask: (q) => q && (/^[A-Z2-7]{26}$/.test(q) ? { stream: q } : { channel: q }),
    key: (row) => row.id,
    columns: [
      when,
      { title: 'What', cell: (td, row) => setBadge(td, row.kind) },
      why,
      { title: 'Encoder', class: 'id', cell: (td, row) => setLink(td, row.encoder, listOf('encoders', row.encoder)) },
      { title: 'Server', class: 'id', cell: (td, row) => setLink(td, row.streamServer, listOf('servers', row.streamServer)) },
      { title: 'Stream ID', class: 'id whole', cell: (td, row) => setText(td, row.streamId || '–') },
    ],
    actions: () => [],
  },

  denials: {
    caption: 'Denials',
    search: 'Whole name of a channel',
    empty: 'No publish request was denied lately.',
    path: 'timeline',
    rows: 'entries',
    sort: '-at',
    ask: (q) => ({ kind: 'denied', channel: q }),
    key: (row) => row.id,
    columns: [
      when,
      { title: 'Channel', class: 'name', cell: (td, row) => setLink(td, row.channel, listOf('timeline', row.channel)) },
      why,
      { title: 'Server', class: 'id', cell: (td, row) => setLink(td, row.streamServer, listOf('servers', row.streamServer)) },
    ],
    actions: () => [],
  },
};

export const listOf = (list, q) => `#${list}?${new URLSearchParams({ q })}`;

const age = (row, now) => duration((now - Date.parse(row.since)) / 1000);

const address = (row) => join(`${row.ip.includes(':') ? `[${row.ip}]` : row.ip}:${row.port}`, row.ssl && 'TLS');

const traffic = (frames, size) => `${plural(frames, 'frame')}, ${bytes(size)}`;

function encoderState(row) {
  if (row.draining) return row.moving ? 'moving' : 'draining';
  if (row.setAside) return 'set aside';
  return row.capacity >= 0 && row.load >= row.capacity ? 'full' : 'ready';
}

function setBadge(td, state) {
  const badge = only(td, 'span');
  badge.className = 'badge ' + state.replace(' ', '-');
  setText(badge, state);
}

// setLink shows nothing as a dash, or as what stands for nothing.
function setLink(td, text, href, nothing = '–') {
  if (!text) {
    setText(td, nothing);
    return;
  }
  if (!td.firstElementChild) td.textContent = '';
  const link = only(td, 'a');
  link.setAttribute('href', href);
  setText(link, String(text));
}

function setAnnounced(td, outputs) {
  const groups = announced(outputs);
  const text = groups.map((group) => `${group.type} ${group.resolutions}`).join('\n') || '–';
  if (td.dataset.shown === text) return;
  td.dataset.shown = text;
  td.textContent = groups.length ? '' : '–';
  for (const group of groups) {
    const line = append(td, 'span', { class: 'output' });
    append(line, 'span', { class: 'type' }, group.type);
    line.append(' ' + group.resolutions);
  }
}

function setSlots(td, row) {
  if (!td.firstElementChild) {
    append(td, 'a');
    append(td, 'div', { class: 'bar-small', 'aria-hidden': 'true' });
  }
  const [link, bar] = td.children;
  setText(link, row.capacity < 0 ? count(row.load) : `${count(row.load)} of ${count(row.capacity)}`);
  link.setAttribute('href', listOf('streams', row.id));
  bar.hidden = row.capacity < 0;
  setBar(bar, row.load, row.capacity);
}

// setProgress shows how much is left on what is drained, against the most that was seen since, and done when nothing is.
function setProgress(td, row, left, done, { drained }) {
  if (!row.draining) {
    drained.delete(row.id);
    td.textContent = '';
    return;
  }
  const most = Math.max(left, drained.get(row.id) ?? 0);
  drained.set(row.id, most);
  if (!td.firstElementChild) {
    td.textContent = '';
    append(td, 'progress', { 'aria-label': 'Streams gone' });
    append(td, 'span');
  }
  const [bar, words] = td.children;
  bar.max = most || 1;
  bar.value = most ? most - left : 1;
  setText(words, left ? `${plural(left, 'stream')} left` : done);
}
