// What an operator can order, each after a confirmation that says what it does.

import { byId, setText } from './dom.js';
import { plural } from './format.js';
import { post, Unauthorized } from './api.js';

const orders = {
  close: (row) => ({
    title: `Close ${row.channel}?`,
    text: 'Its publisher is disconnected and viewers see the end of the stream.',
    yes: 'Close stream',
    dangerous: true,
    send: () => post('close', { 'x-streaming-channel': row.channel, 'x-streaming-id': row.streamId, 'x-requested-by': 'dashboard' }),
  }),
  drainEncoder: (row) => ({
    title: `Drain encoder ${row.id}?`,
    text: `It takes no new streams${row.serving ? ` and keeps the ${plural(row.serving, 'stream')} it has until they end` : ''}.`,
    option: row.serving ? 'Move its live RTMP streams to other encoders' : '',
    yes: 'Drain',
    send: (move) => drain(row, move),
  }),
  move: (row) => ({
    title: `Move the streams of encoder ${row.id}?`,
    text: `Its live RTMP streams go to other encoders, a few at a time. Publishers stay connected; other streams stay until they end. It has ${plural(row.serving, 'stream')}.`,
    yes: 'Move streams',
    send: () => drain(row, true),
  }),
  drainServer: (row) => ({
    title: `Drain server ${row.id}?`,
    text: `New publishers on it are refused${row.streams ? `; the ${plural(row.streams, 'stream')} it has go on until they end` : ''}.`,
    yes: 'Drain',
    send: () => drain(row, false),
  }),
  retry: (row) => ({
    title: `Try the events of ${row.channel} now?`,
    text: 'Those that wait for their next try are sent to the application at once.',
    yes: 'Try events',
    send: () => post('events/retry', { 'x-streaming-channel': row.channel }),
  }),
  retryAll: () => ({
    title: 'Try all undelivered events now?',
    text: 'Those that wait for their next try are sent to the application at once, or one every 10 ms while it takes nothing.',
    yes: 'Try all',
    send: () => post('events/retry', { 'x-streaming-channel': '*' }),
  }),
  discard: (row) => ({
    title: `Discard this ${row.type} of ${row.channel}?`,
    text: `${lossOf(row)} The events behind it are sent.`,
    yes: 'Discard event',
    dangerous: true,
    send: () => post('events/discard', { 'x-event-id': row.id }),
  }),
  undrain: (row) => ({
    title: `Undrain ${row.id}?`,
    text: row.serverType ? 'It takes new publishers again.' : 'It takes new streams again. Moves that are under way are finished.',
    yes: 'Undrain',
    send: () => post('undrain', { 'x-session-id': String(row.id) }),
  }),
};

const drain = (row, move) => post('drain', { 'x-session-id': String(row.id), 'x-drain-move': String(move) });

// lossOf says what the application will not know without an event.
function lossOf(row) {
  switch (row.type) {
    case 'stream-closed':
      return `The application will never hear that stream ${row.streamId} has ended: it will go on taking the stream for live.`;
    case 'publish-failed':
      return row.streamId
        ? `The application will never hear that publisher ${row.streamId} has failed: it will go on taking the publisher for accepted.`
        : 'The application will never hear that a publisher found no room.';
    case 'stream-available':
      return `The application will never hear of it: ${row.streamType} ${row.resolution} of stream ${row.streamId}.`;
  }
  return `The application will never hear of this ${row.type}, of stream ${row.streamId}.`;
}

// createOrders returns what asks and then gives an order. onDone is told when one was carried out, onUnauthorized
// when the credentials are no longer good.
export function createOrders({ onDone, onUnauthorized }) {
  const dialog = byId('confirm');
  const yes = byId('confirm-yes');
  const no = byId('confirm-no');
  let current;

  const setBusy = (busy) => {
    yes.disabled = no.disabled = busy;
  };
  no.addEventListener('click', () => dialog.close());
  dialog.addEventListener('cancel', (event) => {
    if (yes.disabled) event.preventDefault(); // the order is under way
  });
  dialog.querySelector('form').addEventListener('submit', async (event) => {
    event.preventDefault();
    setBusy(true);
    setText(byId('confirm-error'), '');
    try {
      await current.send(byId('confirm-check').checked);
      dialog.close();
      onDone(current.name, current.row);
    } catch (error) {
      if (error instanceof Unauthorized) {
        dialog.close();
        onUnauthorized(error);
        return;
      }
      setText(byId('confirm-error'), `Not done: ${error.message}`);
      setBusy(false);
      yes.focus();
    }
  });

  return (name, row) => {
    current = { ...orders[name](row), name, row };
    setText(byId('confirm-title'), current.title);
    setText(byId('confirm-text'), current.text);
    setText(byId('confirm-error'), '');
    byId('confirm-option').hidden = !current.option;
    setText(byId('confirm-check-label'), current.option ?? '');
    byId('confirm-check').checked = false;
    setText(yes, current.yes);
    yes.className = current.dangerous ? 'danger' : 'primary';
    setBusy(false);
    dialog.showModal();
    if (current.dangerous) no.focus();
  };
}
