import { Qlobber } from 'qlobber'

/** A packet as it passes through the broker; only the topic matters here. */
interface Routed {
  topic: string
}

type Listener = (packet: Routed, done: () => void) => void
type Done = (error?: Error | null) => void

const rules = { separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true }
/** Topics that are remembered, of each kind of question. */
const maxKnownTopics = 50_000
/** Longer topics are legal and rare: remembering them would cost more memory than looking them up costs time. */
const maxKnownTopicLength = 512
// qlobber, which matches topics, takes no more.
const maxTopicLevels = 100

/** Remembers what was found for a topic: telemetry comes on the same topics again and again. */
export function createTopicCache<T>(find: (topic: string) => T) {
  const known = new Map<string, T>()
  return {
    get(topic: string): T {
      let found = known.get(topic)
      if (found === undefined) {
        found = find(topic)
        if (topic.length > maxKnownTopicLength) return found
        if (known.size >= maxKnownTopics) known.clear()
        known.set(topic, found)
      }
      return found
    },
    clear: (): void => known.clear(),
  }
}

/**
 * Who hears of a topic, in the form that Aedes expects of its `mq`.
 *
 * A publisher does not wait for its subscribers: `emit` has handed the packet over when it returns. Who cannot keep
 * up is cut off by the guard of its connection, so that one stalled subscriber never delays anyone.
 */
export function createMatcher() {
  const filters = new Qlobber<Listener>(rules)
  const known = createTopicCache((topic) => filters.match(topic))
  let closed = false

  return {
    /** Nobody listens to the topic. */
    isSilent: (topic: string): boolean => known.get(topic).length === 0,
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
      const listeners = known.get(packet.topic)
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

/** Whether a topic may be published to by a client: MQTT 3.1.1 §4.7. */
export function topicProblem(topic: string): string | null {
  if (topic === '') return 'a topic must not be empty'
  if (badText(topic)) return 'the topic must be UTF-8 without the character U+0000'
  if (topic.startsWith('$')) return 'topics that begin with $ belong to the broker'
  // [MQTT-3.3.2-2]
  if (topic.includes('+') || topic.includes('#')) return 'a topic must not hold the wildcards + and #'
  return topic.split('/').length > maxTopicLevels ? `a topic has at most ${maxTopicLevels} levels` : null
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
