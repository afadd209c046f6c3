import type { HubProcess } from '../hub-process.ts'

export const t0 = 1_700_000_000_000

/** A request to the API with a JSON body; rejects with the problem and its `status`. */
export async function send<T>(hub: HubProcess, method: string, path: string, body: unknown = {}): Promise<T> {
  const headers = { 'content-type': 'application/json' }
  const content = method === 'GET' ? {} : { headers, body: JSON.stringify(body) }
  const response = await fetch(`${hub.http}/v1/${path}`, { method, ...content })
  if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status })
  return (response.status === 204 ? null : await response.json()) as T
}

/** Readings `{n: from}`, `{n: from + 1}` … of one device. */
export function push(hub: HubProcess, count: number, from = 0, device = 'd'): Promise<unknown> {
  const items = Array.from({ length: count }, (_, i) => ({ device, ts: t0 + from + i, n: from + i }))
  return send(hub, 'POST', 'telemetry', items)
}

export const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
