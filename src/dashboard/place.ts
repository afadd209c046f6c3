import type { Millis } from './api.ts'

/** How far back the chart looks. Longer spans show buckets, about as many as a chart has pixels to tell apart. */
export interface Span {
  name: string
  label: string
  millis: Millis
  /** Length of a bucket; `null`: every reading. */
  interval: Millis | null
}

const minute = 60_000
const hour = 60 * minute

export const spans: readonly Span[] = [
  { name: '15m', label: '15 min', millis: 15 * minute, interval: null },
  { name: '1h', label: '1 h', millis: hour, interval: null },
  { name: '6h', label: '6 h', millis: 6 * hour, interval: minute / 2 },
  { name: '24h', label: '24 h', millis: 24 * hour, interval: 2 * minute },
  { name: '7d', label: '7 d', millis: 7 * 24 * hour, interval: 15 * minute },
]
const defaultSpan = spans[0] as Span

/** What the page shows. It is the URL's fragment, so that a view can be shared and survives a reload. */
export interface Place {
  device: string | null
  metric: string | null
  span: Span
}

export function readPlace(fragment: string): Place {
  const parameters = new URLSearchParams(fragment.replace(/^#/, ''))
  const span = spans.find(({ name }) => name === parameters.get('span')) ?? defaultSpan
  return { device: parameters.get('device') || null, metric: parameters.get('metric') || null, span }
}

export function writePlace({ device, metric, span }: Place): string {
  const parameters = new URLSearchParams()
  if (device !== null) parameters.set('device', device)
  if (metric !== null) parameters.set('metric', metric)
  if (span !== defaultSpan) parameters.set('span', span.name)
  return `#${parameters}`
}
