import { Qlobber } from 'qlobber'

/** A packet as it passes through the broker; only the topic matters here. */
interface Routed {
  topic: string
}

type Listener = (packet: Routed, done: () => void) => void
type Done = (error?: Error | null) => void

const rules = { separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true }
/** Topics whose listeners are remembered. Telemetry comes on the same topics again and again. */
const maxKnownTopics = 50_000
/** Longer topics are legal and rare: remembering them would cost more memory than looking them up costs time. */
export const maxKnownTopicLength = 512

/**
 * Who hears of a topic, in the form that Aedes expects of its `mq`.
 *
 * A publisher does not wait for its subscribers: `emit` has handed the packet over when it returns. Who cannot keep
 * up is cut off by the guard of its connection, so that one stalled subscriber never delays anyone.
 */
export function createMatcher() {
  const filters = new Qlobber<Listener>(rules)
  const known = new Map<string, Listener[]>()
  let closed = false

  function listenersOf(topic: string): Listener[] {
    let listeners = known.get(topic)
    if (!listeners) {
      listeners = filters.match(topic)
      if (topic.length > maxKnownTopicLength) return listeners
      if (known.size >= maxKnownTopics) known.clear()
      known.set(topic, listeners)
    }
    return listeners
  }

  return {
    /** Nobody listens to the topic. */
    isSilent: (topic: string): boolean => listenersOf(topic).length === 0,
    on(filter: string, listener: Listener, done?: Done): void {
      filters.add(filter, listener)
      known.clear()
      if (done) setImmediate(done)
    },
    removeListener(filter: string, listener: Listener, done?: Done): void {
      filters.remove(filter, listener)
      known.clear()
      if (done) setImmediate(done)
    },
    emit(packet: Routed, done?: Done): void {
      if (closed) return done?.(new Error('the broker is closed'))
      const listeners = listenersOf(packet.topic)
      for (let i = 0; i < listeners.length; i++) (listeners[i] as Listener)(packet, ignore)
      done?.()
    },
    close(done?: Done): void {
      closed = true
      if (done) setImmediate(done)
    },
  }
}

function ignore(): void {}

/** Whether a topic filter is one: MQTT 3.1.1 §4.7. */
export function filterProblem(filter: string): string | null {
  if (filter === '') return 'a topic filter must not be empty'
  if (badText(filter)) return 'a topic filter must be UTF-8 without the character U+0000'
  const levels = filter.split('/')
  for (const [index, level] of levels.entries()) {
    if (level.length > 1 && /[+#]/.test(level)) return 'a wildcard must be a whole level of the topic filter'
    if (level === '#' && index !== levels.length - 1) return '"#" must be the last level of the topic filter'
  }
  return null
}

/** [MQTT-1.5.3-1], [MQTT-1.5.3-2]: the parser turns broken UTF-8 into U+FFFD, which no sane topic holds. */
export function badText(text: string): boolean {
  return text.includes('\u0000') || text.includes('\ufffd')
}

/** Whether a topic matches a filter; both well-formed. */
export function matchesFilter(topic: string, filter: string): boolean {
  return compileFilter(filter)(topic)
}

/** A filter taken apart once, for many topics. */
export function compileFilter(filter: string): (topic: string) => boolean {
  if (!filter.includes('+') && !filter.includes('#')) return (topic) => topic === filter
  const wanted = filter.split('/')
  const wildFirst = wanted[0] === '+' || wanted[0] === '#'
  return (topic) => {
    // [MQTT-4.7.2-1]
    if (wildFirst && topic.startsWith('$')) return false
    const levels = topic.split('/')
    for (const [index, level] of wanted.entries()) {
      if (level === '#') return true
      if (index >= levels.length || (level !== '+' && level !== levels[index])) return false
    }
    return levels.length === wanted.length
  }
}
