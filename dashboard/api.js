// The commands API. A token is kept in sessionStorage, never in a cookie: no other site's request can carry it.
// Basic credentials are the browser's own affair.

const tokenKey = 'coordinator.token';
const patience = 10_000; // ms for an answer

// Unauthorized is thrown on 401; bearer tells whether a token is asked for.
export class Unauthorized extends Error {
  constructor(bearer) {
    super('authorization required');
    this.bearer = bearer;
  }
}

// Refused is an answer that says why not, with its status.
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

export const signedIn = () => sessionStorage.getItem(tokenKey) !== null;
export const signIn = (token) => sessionStorage.setItem(tokenKey, token);
export const signOut = () => sessionStorage.removeItem(tokenKey);

// get reads a list or the overview; empty parameters are left out.
export function get(path, parameters = {}, signal = undefined) {
  const given = Object.entries(parameters).filter(([, value]) => value !== '');
  const query = new URLSearchParams(given).toString();
  return request('GET', path + (query && '?' + query), {}, signal);
}

// post gives an order. What it is about is in headers that no foreign page's form can send.
export const post = (path, headers) => request('POST', path, headers);

async function request(method, path, headers, signal) {
  const token = sessionStorage.getItem(tokenKey);
  if (token !== null) headers = { ...headers, Authorization: 'Bearer ' + asHeaderValue(token) };
  const limit = AbortSignal.timeout(patience);
  const response = await fetch(new URL('commands/' + path, location.origin + location.pathname), { // no credentials of the address
    method, headers, cache: 'no-store', redirect: 'error', signal: signal ? AbortSignal.any([signal, limit]) : limit,
  });
  if (response.status === 401) {
    throw new Unauthorized(/^bearer/i.test(response.headers.get('WWW-Authenticate') ?? ''));
  }
  if (!response.ok) throw new Refused(response.status, await reasonOf(response));
  return response.json();
}

async function reasonOf(response) {
  try {
    return (await response.json()).error ?? response.statusText;
  } catch {
    return `status ${response.status}`;
  }
}

// asHeaderValue lets a token of any characters through as its UTF-8 bytes, as other clients send it.
const asHeaderValue = (token) => String.fromCharCode(...new TextEncoder().encode(token));
