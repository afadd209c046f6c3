import type { AedesPublishPacket } from 'aedes'
import { Qlobber } from 'qlobber'
import type { Recipient } from './forwarding.ts'

/** How Aedes hands a packet to whoever listens. */
export type Listener = (packet: AedesPublishPacket, done: (client?: Recipient) => void) => void
type Done = (error?: Error | null) => void

/** A filter of a client. */
export interface Subscriber {
  client: Recipient
  qos: 0 | 1 | 2
}

/** What Aedes subscribes to: for a client, or, without one, for itself. */
interface Ear {
  listener: Listener
  client: Recipient | null
  qos: 0 | 1 | 2
  /** It begins with a wildcard. */
  isWild: boolean
}

/** Who hears of a topic: listeners of Aedes itself, and clients, each once. */
interface Audience {
  own: Ear[]
  subscribers: Subscriber[]
}

const silence: Audience = { own: [], subscribers: [] }

export const topicRules = { separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true }
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
 * A publisher does not wait for its subscribers: `emit` has handed the packet over when it returns. Aedes' own listeners
 * are called; the clients are given to `deliver`, each of them once, at the highest QoS of its filters. [MQTT-3.3.5-1]
 */
export function createMatcher(deliver: (packet: AedesPublishPacket, subscribers: readonly Subscriber[]) => void) {
  const filters = new Qlobber<Ear>(topicRules)
  const ears = new Map<Listener, Ear>()
  const known = createTopicCache((topic) => audienceOf(topic, filters.match(topic)))
  let closed = false

  return {
    /** Nobody listens to the topic. */
    isSilent: (topic: string): boolean => known.get(topic) === silence,
    /** The highest QoS that a client's filters allow for a topic. */
    qosOf: (client: Recipient, topic: string): 0 | 1 | 2 =>
      known.get(topic).subscribers.find((subscriber) => subscriber.client === client)?.qos ?? 0,
    on(filter: string, listener: Listener, done?: Done): void {
      const client = ownerOf(listener)
      const qos = client ? (client.subscriptions[filter]?.qos ?? 0) : 0
      const ear = { listener, client, qos, isWild: filter.startsWith('+') || filter.startsWith('#') }
      ears.set(listener, ear)
      filters.add(filter, ear)
      known.clear()
      if (done) setImmediate(done)
    },
    removeListener(filter: string, listener: Listener, done?: Done): void {
      const ear = ears.get(listener)
      if (ear) filters.remove(filter, ear)
      ears.delete(listener)
      known.clear()
      if (done) setImmediate(done)
    },
    emit(packet: AedesPublishPacket, done?: Done): void {
      if (closed) return done?.(new Error('the broker is closed'))
      const { own, subscribers } = known.get(packet.topic)
      for (const { listener } of own) listener(packet, ignore)
      if (subscribers.length > 0) deliver(packet, subscribers)
      done?.()
    },
    close(done?: Done): void {
      closed = true
      if (done) setImmediate(done)
    },
  }
}

function audienceOf(topic: string, matching: readonly Ear[]): Audience {
  const own: Ear[] = []
  const highest = new Map<Recipient, Subscriber>()
  for (const ear of matching) {
    const { client, qos, isWild } = ear
    // [MQTT-4.7.2-1]
    if (isWild && topic.startsWith('$')) continue
    if (!client) own.push(ear)
    else if (qos >= (highest.get(client)?.qos ?? 0)) highest.set(client, { client, qos })
  }
  return own.length + highest.size === 0 ? silence : { own, subscribers: [...highest.values()] }
}

// Aedes does not say whose a listener is. But all that a listener of a client does is to hand the packet to its client,
// which knows this one, and names itself. Aedes' own take it for news of a broker without a name.
const question = { cmd: 'publish', topic: '', payload: Buffer.alloc(0), brokerId: '', brokerCounter: 0, qos: 0 }

/** The packet asks whose the listener is that was given it; no message has an empty topic. */
export function isQuestion({ topic }: { topic: string }): boolean {
  return topic === question.topic
}

function ownerOf(listener: Listener): Recipient | null {
  let owner: Recipient | null = null
  listener(question as AedesPublishPacket, (client) => {
    owner = client ?? null
  })
  return owner
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
