import { type CodecName, codecs } from './codecs.ts'
import { deviceProblem, metricProblem } from './reading.ts'

/** A rule of the configuration: which topics carry telemetry, of which device, in which form. */
export interface Mapping {
  /** Levels of a topic; `{device}` stands for one whole level, a last `{metric}` for all that remain. */
  topic: string
  codec: CodecName
}

/** Where a topic leads. */
export type Route =
  | { kind: 'telemetry'; device: string; metric: string | null; codec: CodecName }
  /** The device is the one that the connection logged in as. */
  | { kind: 'own'; codec: CodecName }
  /** Looks like telemetry and is not: the reason is for the quarantine. What is the hub's to say nobody hears. */
  | { kind: 'unknown'; reason: string; ofHub?: true }

/** The route of a topic, or `null` when it carries no telemetry and only passes through the broker. */
export type Router = (topic: string) => Route | null

/** A router over the native topics and the given mappings, which are asked in their order. */
export function createRouter(mappings: readonly Mapping[]): Router {
  const rules = mappings.map(compile)
  return (topic) => {
    if (topic.startsWith('devices/')) return nativeRoute(topic)
    if (topic === 'v1/devices/me/telemetry') return { kind: 'own', codec: 'json' }
    if (topic === 'v1/gateway/telemetry') {
      return { kind: 'telemetry', device: '', metric: null, codec: 'thingsboard-gateway' }
    }
    const levels = topic.split('/')
    for (const rule of rules) {
      const route = rule(levels)
      if (route) return route
    }
    return null
  }
}

/** `devices/{device}/telemetry[/{metric}]` */
function nativeRoute(topic: string): Route {
  const [, device = '', kind, metric, ...rest] = topic.split('/')
  if (kind === 'status' && metric === undefined) {
    return { kind: 'unknown', reason: 'devices/{device}/status is what the hub says of a device', ofHub: true }
  }
  if (kind !== 'telemetry' || rest.length > 0) {
    return {
      kind: 'unknown',
      reason: 'unknown topic: telemetry goes to devices/{device}/telemetry or devices/{device}/telemetry/{metric}',
    }
  }
  return telemetry(device, metric ?? null, metric === undefined ? 'json' : 'scalar')
}

function telemetry(device: string, metric: string | null, codec: CodecName): Route {
  const reason = deviceProblem(device) ?? (metric === null ? null : metricProblem(metric))
  return reason === null ? { kind: 'telemetry', device, metric, codec } : { kind: 'unknown', reason }
}

function compile(mapping: Mapping): (levels: string[]) => Route | null {
  const template = mapping.topic.split('/')
  const takesRest = template.at(-1) === '{metric}'
  const deviceAt = template.indexOf('{device}')
  const fixed = takesRest ? template.slice(0, -1) : template
  return (levels) => {
    if (takesRest ? levels.length < template.length : levels.length !== template.length) return null
    for (const [index, level] of fixed.entries()) if (index !== deviceAt && level !== levels[index]) return null
    const metric = takesRest ? levels.slice(fixed.length).join('.') : null
    return telemetry(levels[deviceAt] ?? '', metric, mapping.codec)
  }
}

/** What is wrong with a mapping of the configuration, or `null`. */
export function mappingProblem(mapping: { topic: string; codec: string }): string | null {
  const levels = mapping.topic.split('/')
  if (!Object.hasOwn(codecs, mapping.codec)) {
    return `unknown codec "${mapping.codec}": choose one of ${Object.keys(codecs).join(', ')}`
  }
  const devices = levels.filter((level) => level === '{device}').length
  if (devices !== 1 && mapping.codec !== 'thingsboard-gateway') {
    return `the topic "${mapping.topic}" must hold {device} exactly once, as a level of its own`
  }
  if (levels.some((level) => level === '{metric}') && levels.indexOf('{metric}') !== levels.length - 1) {
    return `in the topic "${mapping.topic}", {metric} must be the last level`
  }
  if (levels.some((level) => /[{}#+]/.test(level) && level !== '{device}' && level !== '{metric}')) {
    return `the topic "${mapping.topic}" may hold only plain levels, {device} and {metric}`
  }
  if (mapping.topic.startsWith('devices/') || mapping.topic.startsWith('$')) {
    return `the topic "${mapping.topic}" belongs to the hub itself`
  }
  return null
}
