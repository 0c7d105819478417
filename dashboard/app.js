// The page's one loop: it asks for the overview and the list on the screen, shows them, and asks again while the page
// is visible. The address holds what is shown: #streams?q=...&sort=...

import { get, Refused, signedIn, signIn, signOut, Unauthorized } from './api.js';
import { createCharts } from './charts.js';
import { byId, setText } from './dom.js';
import { clock, count, duration, join } from './format.js';
import { listOf, lists } from './lists.js';
import { createOrders } from './orders.js';
import { showOverview } from './overview.js';
import { Table } from './table.js';

const pollEvery = 2000; // ms
const longestPause = 15_000; // between tries, while the coordinator is lost
const typingPause = 250;
const pageSize = 50;

const view = { list: 'streams', q: '', sort: '', cursors: [''] }; // the last cursor is that of the page on the screen
const cx = { now: 0, ordered: new Set(), drained: new Map() }; // what rows need to know: see lists.js
let table;
let nextCursor = '';
let lastData; // Date
let failures = 0;
let nextTry = 0;
let timer;
let ticking;
let running = new AbortController();

const showCharts = createCharts(byId('charts'));
const askFor = createOrders({
  onDone(order, row) {
    if (order === 'close') cx.ordered.add(row.streamId);
    poll();
  },
  onUnauthorized: askToSignIn,
});

// poll may be called at any time: it replaces a poll that is under way.
async function poll() {
  clearTimeout(timer);
  running.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    const [overview, list] = await Promise.all([get('overview', {}, signal), getList(signal)]);
    if (signal.aborted) return;
    const shown = showAll(overview, list);
    found();
    schedule(shown ? pollEvery : 0);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Unauthorized) askToSignIn(error);
    else lost(error);
  }
}

// getList forgets the page or the order in the address if the coordinator does not know it.
async function getList(signal) {
  try {
    const { path = view.list, rows, sort = '', parameter = 'q', ask = (q) => ({ [parameter]: q }) } = lists[view.list];
    const asked = ask(view.q);
    if (!asked) return { [rows]: [], matched: 0, after: '' };
    return await get(path, { ...asked, sort: view.sort || sort, limit: pageSize, after: view.cursors.at(-1) }, signal);
  } catch (error) {
    if (!(error instanceof Refused && error.status === 400)) throw error;
    if (view.cursors.length === 1 && view.sort === '') {
      if (view.list === 'events' && view.q) return { events: [], after: '' }; // no channel has such a name
      throw error;
    }
    Object.assign(view, { sort: '', cursors: [''] });
    return getList(signal);
  }
}

function schedule(pause) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, pause);
}

// showAll returns false if the page of the list has emptied, so that the one before it is to be asked for.
function showAll(overview, list) {
  cx.now = Date.parse(overview.now);
  byId('cluster').hidden = false;
  byId('sign-in').hidden = true;
  byId('sign-out').hidden = !signedIn();
  showOverview(overview, cx.now);
  showCharts(overview.history, cx.now);
  setText(byId('count-streams'), count(overview.streams.live + overview.streams.closing + overview.streams.waiting + overview.streams.ending));
  setText(byId('count-encoders'), count(overview.encoders.total));
  setText(byId('count-servers'), count(overview.streamingServers.rtmp + overview.streamingServers.ws));
  setText(byId('count-events'), count(overview.events.pending));
  byId('try-all').hidden = view.list !== 'events' || !overview.events.pending;
  showGateways(overview.gateways);
  return showList(list, view.list === 'events' && !view.q ? overview.events.pending : list.matched);
}

// showGateways shows nothing of gateways where there are none.
function showGateways({ total, absent }) {
  byId('to-gateways').hidden = !total && view.list !== 'gateways';
  byId('cluster').classList.toggle('without-gateways', !total);
  setText(byId('count-gateways'), join(count(total), absent > 0 && `${count(absent)} absent`));
}

// showList is given how many rows there are on all pages, if anybody knows.
function showList(list, matched) {
  const { rows: name = view.list, sort, columns, empty } = lists[view.list];
  const rows = list[name];
  const before = (view.cursors.length - 1) * pageSize;
  if (!rows.length && before) {
    view.cursors.pop();
    return false;
  }
  table.show(rows, view.sort || sort || columns[0].sort || '', view.q ? `Nothing matches “${view.q}”.` : empty, cx);
  showWayToTimeline();
  nextCursor = list.after;
  const last = before + rows.length;
  setText(byId('shown'), rows.length ? `${count(before + 1)}–${count(last)}${matched === undefined ? '' : ` of ${count(Math.max(matched, last))}`}` : '');
  enable(byId('previous'), before > 0);
  enable(byId('next'), nextCursor !== '');
  return true;
}

// showWayToTimeline leads from a search for a stream that is not live to what is known of it.
function showWayToTimeline() {
  const way = byId('to-timeline');
  way.hidden = view.list !== 'streams' || !view.q;
  way.firstElementChild.setAttribute('href', listOf('timeline', view.q));
  setText(way.firstElementChild, `Timeline of “${view.q}”`);
}

// enable uses aria-disabled, for a disabled button would lose the focus.
const enable = (button, on) => button.setAttribute('aria-disabled', String(!on));
const isEnabled = (button) => button.getAttribute('aria-disabled') !== 'true';

// Where the page is

function readAddress() {
  const [name, query = ''] = location.hash.slice(1).split('?');
  const list = Object.hasOwn(lists, name) ? name : 'streams';
  const parameters = new URLSearchParams(query);
  const changed = list !== view.list || !table;
  Object.assign(view, { list, q: parameters.get('q') ?? '', sort: parameters.get('sort') ?? '', cursors: [''] });
  if (changed) {
    const frame = byId('table-frame');
    if (frame.contains(document.activeElement)) frame.focus(); // what has the focus goes
    frame.setAttribute('aria-label', lists[list].caption);
    table = new Table(frame, lists[list], { onSort: (sort) => go({ sort }), onOrder: askFor });
    byId('search').placeholder = lists[list].search;
    setText(byId('search').labels[0], `${lists[list].caption}: ${lists[list].search}`);
    document.querySelectorAll('nav a').forEach((a) => {
      if (a.hash === '#' + list) a.setAttribute('aria-current', 'page');
      else a.removeAttribute('aria-current');
    });
  }
  if (byId('search').value !== view.q) byId('search').value = view.q;
}

function go(change) {
  const { list, q, sort } = { ...view, ...change };
  const query = new URLSearchParams(Object.entries({ q, sort }).filter(([, value]) => value)).toString();
  history.replaceState(null, '', `#${list}${query && '?' + query}`);
  readAddress();
  poll();
}

// Connection

function found() {
  lastData = new Date();
  failures = 0;
  clearInterval(ticking);
  byId('lost').hidden = true;
  document.body.classList.remove('stale');
  showConnection('live', 'Live');
}

function lost(error) {
  console.warn(error);
  const standsBy = error instanceof Refused && error.message === 'standby';
  failures = standsBy ? 2 : failures + 1; // one that stands by may lead at any time
  const pause = Math.min(longestPause, 500 * 2 ** failures) * (0.75 + Math.random() / 2);
  nextTry = Date.now() + pause;
  schedule(pause);
  if (standsBy) showConnection('standby', 'Standing by');
  else showConnection('lost', 'Connection lost');
  document.body.classList.add('stale');
  let reason = '';
  if (standsBy) reason = 'Open this page at the one that leads, or at a gateway. ';
  else if (error instanceof Refused) reason = `It answered: ${error.message}. `;
  const tick = () => {
    const shown = lastData ? `Shown is the state of ${clock(lastData)}, ${duration((Date.now() - lastData) / 1000)} ago. ` : '';
    setText(byId('lost-detail'), `${reason}${shown}Next try in ${duration((nextTry - Date.now()) / 1000 + 1)}.`);
  };
  clearInterval(ticking);
  ticking = setInterval(tick, 1000);
  tick();
  byId('ready').hidden = true;
  showBanner(standsBy ? 'This coordinator stands by.' : 'No connection to the coordinator.', 'Try now', poll, standsBy);
}

function showBanner(title, action, act, calm = false) {
  byId('lost').classList.toggle('calm', calm);
  setText(byId('lost-title'), title);
  setText(byId('retry'), action);
  byId('retry').onclick = act;
  byId('lost').hidden = false;
}

function showConnection(state, text) {
  byId('connection').dataset.state = state;
  setText(byId('connection'), text);
}

// askToSignIn brings the form for a token. Basic credentials the browser asks for when the page is loaded.
function askToSignIn(error) {
  running.abort();
  clearTimeout(timer);
  clearInterval(ticking);
  showConnection('out', 'Not signed in');
  if (!error.bearer) {
    setText(byId('lost-detail'), 'The coordinator asks for other credentials: reload the page to sign in.');
    showBanner('Not signed in.', 'Reload', () => location.reload());
    return;
  }
  setText(byId('sign-in-error'), signedIn() ? 'The coordinator did not accept this token.' : '');
  leave();
}

function leave() {
  signOut();
  byId('cluster').hidden = true;
  byId('lost').hidden = true;
  byId('sign-out').hidden = true;
  byId('ready').hidden = true;
  setText(byId('about'), '');
  byId('sign-in').hidden = false;
  byId('token').value = '';
  byId('token').focus();
}

byId('sign-in-form').addEventListener('submit', (event) => {
  event.preventDefault();
  setText(byId('sign-in-error'), '');
  signIn(byId('token').value);
  poll();
});
byId('sign-out').addEventListener('click', () => {
  setText(byId('sign-in-error'), '');
  showConnection('out', 'Signed out');
  running.abort();
  clearTimeout(timer);
  leave();
});
byId('try-all').addEventListener('click', () => askFor('retryAll', {}));
byId('previous').addEventListener('click', (event) => {
  if (!isEnabled(event.target)) return;
  view.cursors.pop();
  poll();
});
byId('next').addEventListener('click', (event) => {
  if (!isEnabled(event.target)) return;
  view.cursors.push(nextCursor);
  enable(event.target, false); // until the page is there
  poll();
});
let typing;
byId('search').addEventListener('input', (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ q: event.target.value.trim() }), typingPause);
});
addEventListener('hashchange', () => {
  readAddress();
  poll();
});
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(timer);
  } else if (byId('sign-in').hidden) {
    poll();
  }
});

readAddress();
poll();
