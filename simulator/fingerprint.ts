import type { Value } from '../devices/reading.ts'

/**
 * What a hub has to give back for what it was sent, folded into 32 bits. This is a reading of the hub's documented
 * promises and on purpose not the hub's own decoder: a check that shares the code it checks shares its mistakes.
 */

/** Nested objects flatten to `a.b`, arrays are kept as JSON text, and `null` is no value. */
export function flatten(value: unknown, path = '', into: Record<string, Value> = {}): Record<string, Value> {
  if (Array.isArray(value)) into[path] = JSON.stringify(value)
  else if (typeof value === 'object' && value !== null) {
    for (const [name, inner] of Object.entries(value)) flatten(inner, path === '' ? name : `${path}.${name}`, into)
  } else if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string') into[path] = value
  return into
}

/** The readings in a payload as devices write it; undefined for one whose time is not integer milliseconds. */
export function parsePayload(payload: string): { ts: number; values: Record<string, Value> } | undefined {
  const body: unknown = JSON.parse(payload)
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return undefined
  const { ts, ...rest } = body as Record<string, unknown>
  if (!Number.isSafeInteger(ts)) return undefined
  const keys = Object.keys(rest)
  const values = keys.length === 1 && keys[0] === 'values' && isObject(rest.values) ? rest.values : rest
  return { ts: ts as number, values: flatten(values) }
}

/** The same for the same metrics and values in whatever order. */
export function fingerprint(values: Record<string, Value>): number {
  let sum = 0
  for (const metric in values) sum = (sum + mix(hashText(metric), hashValue(values[metric]!))) | 0
  return sum >>> 0
}

const float = new Float64Array(1)
const halves = new Uint32Array(float.buffer)

function hashValue(value: Value): number {
  if (typeof value === 'string') return hashText(value)
  if (typeof value === 'boolean') return value ? 0x7e57 : 0x0ff
  // JSON has no -0.
  float[0] = value + 0
  return mix(halves[0]!, halves[1]! ^ 0x9e3779b9)
}

/** FNV-1a. */
function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  return hash
}

function mix(a: number, b: number): number {
  let mixed = Math.imul(a ^ Math.imul(b, 0x9e3779b1), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
