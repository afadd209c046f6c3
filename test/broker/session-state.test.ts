import { expect, test } from 'vitest'
import type { QueuedPacket } from '../../broker/sessions/outgoing.ts'
import { createSessions, type Restored } from '../../broker/sessions/sessions.ts'
import type { Note, Sink } from '../../devices/sink.ts'
import { defaultConfig } from '../../src/config.ts'

const nothing: Restored = { handshakes: [], notes: [] }

/** Sessions over a disk that keeps everything at once. */
function open({ limits = {}, restored = nothing } = {}) {
  const kept = new Map<string, Uint8Array>(restored.notes)
  const noted: string[] = []
  const discarded: string[] = []
  const keep = ([key, value]: Note) => {
    noted.push(key)
    if (value) kept.set(key, value)
    else kept.delete(key)
  }
  const sink: Sink = {
    accept: () => {},
    note(notes, done) {
      for (const note of notes) keep(note)
      done(null)
    },
    discard: (client) => void discarded.push(client),
  }
  const sessions = createSessions(sink, { ...defaultConfig(), ...limits }, restored)
  /** What is on disk when the message is acknowledged; calling the answer acknowledges it. */
  function prepare(packet: QueuedPacket): () => void {
    const prepared = sessions.prepare(packet)
    for (const note of prepared?.notes ?? []) keep(note)
    return () => prepared?.kept()
  }
  return {
    sessions,
    prepare,
    noted,
    discarded,
    again: () => open({ limits, restored: { handshakes: [], notes: [...kept] } }),
  }
}

test('a session that its client never came into is forgotten, and one that was taken over is in use', () => {
  const { sessions, again } = open({ limits: { sessionExpiry: 1000 } })
  const later = Date.now() + 10_000
  sessions.open('vanished', '')
  sessions.open('used', '')
  const [first, second] = [{ id: 'used' }, { id: 'used' }]
  sessions.connected(first)
  sessions.connected(second)
  sessions.connectionEnded(first)
  sessions.expire(later)
  expect([...sessions.entries()].map(([client]) => client)).toEqual(['used'])
  // After a crash it counts as away from then on, and not since the takeover.
  const restored = again().sessions
  expect(restored.get('used')?.since).toBeGreaterThanOrEqual(later - 10_000)
  sessions.connectionEnded(second)
  sessions.expire(later)
  expect(sessions.figures.sessions).toBe(0)
  expect(again().sessions.figures.sessions).toBe(0)
})

test('QoS 2 exchanges of a clean session end with the hub, those of a remembered client do not', () => {
  const before = open()
  before.sessions.open('remembered', '')
  const handshakes = [
    ['remembered', [[1, 7]]],
    ['clean', [[1, 7]]],
  ] as const
  const { notes } = { notes: [['sremembered', new Uint8Array(Buffer.from('{"owner":"","since":1}'))]] as const }
  const { sessions, discarded } = open({ restored: { handshakes, notes } })
  expect(sessions.incoming.count('remembered')).toBe(1)
  expect(sessions.incoming.open).toBe(1)
  expect(discarded).toEqual(['clean'])
  expect(sessions.open('clean', '')).toBe(false)
})

test('a subscription costs what changes, however many the client has', () => {
  const { sessions, noted, again } = open()
  sessions.open('many', '')
  const filters = Array.from({ length: 5000 }, (_, i) => ({ topic: `t/${i}`, qos: 1 as const }))
  sessions.subscribe('many', filters)
  noted.length = 0
  sessions.subscribe('many', filters)
  sessions.connected({ id: 'many' })
  expect(noted).toEqual(['smany'])
  sessions.subscribe('many', [{ topic: 't/7', qos: 2 }])
  sessions.unsubscribe('many', ['t/8', 'never'])
  expect(noted).toEqual(['smany', 'fmany\u0000t/7', 'fmany\u0000t/8'])
  expect(sessions.filters).toBe(4999)
  const restored = again().sessions
  expect(restored.filters).toBe(4999)
  expect(restored.subscribersOf('t/7')).toMatchObject([{ clientId: 'many', qos: 2 }])
  expect(restored.subscribersOf('t/8')).toEqual([])
  restored.remove('many')
  expect(restored.filters).toBe(0)
})

function retain(topic: string, payload: string): QueuedPacket {
  const packet = { cmd: 'publish', topic, payload: Buffer.from(payload), qos: 1, retain: true, dup: false }
  return packet as unknown as QueuedPacket
}

test('messages that wait together for their commit are not retained beyond the limits', () => {
  for (const limits of [{ maxRetained: 3 }, { maxRetainedSize: 30 }]) {
    const hub = open({ limits })
    const { sessions, prepare } = hub
    const prepared = Array.from({ length: 20 }, (_, i) => prepare(retain(`r/${i}`, '0123456789')))
    // One that goes makes room for another.
    prepared.push(prepare(retain('r/1', '')), prepare(retain('new', '0123456789')))
    for (const acknowledge of prepared) acknowledge()
    const topics = [...sessions.retained.matching(['#'])].map(({ topic }) => topic)
    expect(topics).toEqual(['r/0', 'r/2', 'new'])
    expect(sessions.figures).toMatchObject({ retained: 3, retainedBytes: 30, retainedDropped: 17 })
    // What the hub says of its devices has its own room, also after a restart.
    sessions.storeRetained(retain('devices/d/status', 'online'))
    for (const one of [hub.again(), hub]) {
      one.prepare(retain('more', '0123456789'))()
      expect(one.sessions.figures).toMatchObject({ retained: 4, retainedBytes: 36 })
      one.prepare(retain('r/0', ''))()
      one.prepare(retain('more', '0123456789'))()
      expect([...one.sessions.retained.matching(['more'])]).toHaveLength(1)
      expect(one.sessions.figures).toMatchObject({ retained: 4, retainedBytes: 36 })
    }
  }
})

test('many filters over many retained messages leave turns to others, and each message comes once', async () => {
  const { sessions } = open()
  for (let i = 0; i < 5000; i++) sessions.prepare(retain(`r/${i}/x`, 'text'))?.kept()
  const filters = ['#', '+/1/x', 'r/7/x', ...Array.from({ length: 2000 }, (_, i) => `+/+/never${i}`)]
  let turns = 0
  let more = true
  const count = () => {
    turns++
    if (more) setImmediate(count)
  }
  setImmediate(count)
  const found: string[] = []
  for await (const { topic } of sessions.retained.stream(filters)) found.push(topic)
  more = false
  expect(new Set(found).size).toBe(5000)
  expect(found).toHaveLength(5000)
  expect(turns).toBeGreaterThan(1)
  const exact: string[] = []
  for await (const { topic } of sessions.retained.stream(['r/7/x', 'r/7/x', 'r/none'])) exact.push(topic)
  expect(exact).toEqual(['r/7/x'])
})
