// Figures as people read them. Pure.

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

export const count = (n) => number.format(n);

export const rate = (n) => (n >= 100 ? number : tenths).format(n);

export const plural = (n, one, many = one + 's') => `${count(n)} ${n === 1 ? one : many}`;

// duration takes seconds and gives the two largest units: "2 h 3 min".
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return min < 10 ? `${min} min ${s % 60} s` : `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return `${h} h ${min % 60} min`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}

export const clock = (date) => date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

// moment leaves out the day if it is today.
export const moment = (date, today) => (date.toDateString() === today.toDateString() ? clock(date) : `${date.toLocaleDateString()} ${clock(date)}`);

export function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
  return `${(n >= 100 || !unit ? number : tenths).format(n)} ${units[unit]}`;
}

// join leaves out what is empty.
export const join = (...parts) => parts.filter(Boolean).join(' · ');

// announced groups outputs by their type: HLS-LIVE with 1280x720-30, 640x360.
export function announced(outputs) {
  const byType = new Map();
  for (const output of outputs ?? []) {
    if (!byType.has(output.streamType)) byType.set(output.streamType, new Set());
    byType.get(output.streamType).add(output.resolution);
  }
  return [...byType].map(([type, resolutions]) => ({ type, resolutions: [...resolutions].join(', ') }));
}
