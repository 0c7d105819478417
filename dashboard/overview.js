// The state in one look: the tiles and the line above them.

import { byId, setBar, setText } from './dom.js';
import { count, duration, join, plural, rate } from './format.js';

const some = (n, word) => n > 0 && `${count(n)} ${word}`.replaceAll(' ', '\u00a0'); // a line breaks between parts only

export function showOverview(o, now) {
  const age = duration((now - Date.parse(o.startedAt)) / 1000);
  setText(byId('about'), join(`Version ${o.version}`, ...(o.epoch > 0 ? [`leads for ${age}`, `epoch ${o.epoch}`] : [`up ${age}`])));
  const ready = byId('ready');
  ready.hidden = false;
  ready.className = 'badge ' + (o.ready ? 'live' : 'failing');
  setText(ready, o.ready ? 'Ready' : `Not ready: ${o.notReady.join(', ')}`);

  const { slots, streams, encoders, streamingServers: servers, events, keyVerifications: keys } = o;
  const limited = slots.capacity >= 0;
  tile('slots', count(slots.used), limited && `of ${count(slots.capacity)}`);
  note('slots', limited ? plural(Math.max(0, slots.capacity - slots.used), 'slot') + ' free' : 'No limit', limited && encoders.total > 0 && slots.used >= slots.capacity);
  const meter = byId('slots-meter');
  meter.hidden = !limited;
  meter.setAttribute('aria-valuemax', String(Math.max(0, slots.capacity)));
  meter.setAttribute('aria-valuenow', String(Math.min(slots.used, Math.max(0, slots.capacity))));
  meter.setAttribute('aria-valuetext', `${count(slots.used)} of ${count(slots.capacity)}`);
  setBar(meter, slots.used, slots.capacity);

  tile('live', count(streams.live));
  note('live', join(some(streams.closing, 'closing'), some(streams.waiting, 'waiting for an encoder'), some(streams.ending, 'told to end')) || 'None closing', streams.waiting > 0);
  tile('encoders', count(encoders.total));
  note('encoders', join(some(encoders.draining, 'draining'), some(encoders.setAside, 'set aside')) || (encoders.total ? 'All in service' : 'None connected'), encoders.setAside > 0 || encoders.total === 0);
  tile('servers', count(servers.rtmp + servers.ws));
  note('servers', join(some(servers.rtmp, 'RTMP'), some(servers.ws, 'WS'), some(servers.draining, 'draining')) || 'None connected');
  tile('requests', count(o.waitingRequests));
  note('requests', o.waitingRequests ? 'for a free slot' : 'No publisher waits', o.waitingRequests > 0);
  tile('events', count(events.pending));
  note('events', events.pending ? `oldest ${events.oldestSeconds < 1 ? 'under 1 s' : duration(events.oldestSeconds)}` : 'All delivered', events.oldestSeconds >= 60);
  tile('keys', rate(keys.perSecond), 'per s');
  note('keys', keys.refusedPerSecond > 0 ? `${rate(keys.refusedPerSecond)} per s refused` : 'None refused', keys.refusedPerSecond > 0);
}

function tile(id, figure, unit = '') {
  const element = byId(id);
  if (!element.firstChild) element.append('', document.createElement('small'));
  if (element.firstChild.data !== figure) element.firstChild.data = figure;
  setText(element.lastChild, unit ? ' ' + unit : '');
}

function note(id, text, alarming = false) {
  const element = byId(id + '-note');
  setText(element, text);
  element.classList.toggle('alarming', alarming);
}
