import { generate, type Packet } from 'mqtt-packet'
import type { Random } from '../random.ts'
import { hostileJson } from './json.ts'

const topics = [
  'devices/fuzz/telemetry',
  'devices/fuzz/telemetry/t',
  'v1/devices/me/telemetry',
  'v1/gateway/telemetry',
  'devices/#',
  '$SYS/x',
  'a//b',
  '/',
  'devices/__proto__/telemetry',
  'x/'.repeat(99),
  'ü'.repeat(600),
]

const makers: ((random: Random) => Packet)[] = [
  (random) => ({
    cmd: 'connect',
    clientId: random.pick(['', 'fuzz-a', 'fuzz-b', '__proto__', 'x'.repeat(200)]),
    clean: random.next() < 0.6,
    protocolVersion: random.pick([3, 4, 4, 4, 5] as const),
    keepalive: random.pick([0, 1, 60, 65535]),
    ...(random.next() < 0.3 ? { username: 'u', password: Buffer.from('p') } : {}),
    ...(random.next() < 0.3
      ? { will: { topic: random.pick(topics), payload: Buffer.from('{"w":1}'), qos: 1 as const, retain: false } }
      : {}),
  }),
  (random) => ({ cmd: 'connack', returnCode: random.integer(0, 6), sessionPresent: false }),
  publish,
  publish,
  publish,
  publish,
  (random) => ({
    cmd: random.pick(['puback', 'pubrec', 'pubrel', 'pubcomp'] as const),
    messageId: random.integer(1, 5),
  }),
  (random) => ({
    cmd: random.pick(['puback', 'pubrec', 'pubrel', 'pubcomp'] as const),
    messageId: random.integer(1, 5),
  }),
  (random) => ({
    cmd: 'subscribe',
    messageId: random.integer(1, 5),
    subscriptions: Array.from({ length: random.integer(1, 4) }, () => ({
      topic: random.pick([...topics, '#', '+/+', 'a/+/b']),
      qos: random.integer(0, 2) as 0 | 1 | 2,
    })),
  }),
  (random) => ({ cmd: 'suback', messageId: random.integer(1, 5), granted: [0, 1, 128] }),
  (random) => ({ cmd: 'unsubscribe', messageId: random.integer(1, 5), unsubscriptions: [random.pick(topics)] }),
  (random) => ({ cmd: 'unsuback', messageId: random.integer(1, 5), granted: [] }),
  () => ({ cmd: 'pingreq' }),
  () => ({ cmd: 'pingresp' }),
  () => ({ cmd: 'disconnect' }),
]

function publish(random: Random): Packet {
  return {
    cmd: 'publish',
    topic: random.pick(topics),
    payload: hostileJson(random),
    qos: random.integer(0, 2) as 0 | 1 | 2,
    messageId: random.integer(1, 5),
    dup: random.next() < 0.2,
    retain: random.next() < 0.2,
  }
}

/** What a hostile client sends over one connection: packets that are valid each for itself, or were, in any order. */
export function hostilePackets(random: Random): Buffer {
  const packets = Array.from({ length: random.integer(1, 12) }, () => bytesOf(random.pick(makers)(random)))
  // Most get past CONNECT: what comes behind it is the greater part of a broker.
  if (random.next() < 0.8) packets.unshift(bytesOf(makers[0]?.(random) as Packet))
  return Buffer.concat(packets.map((packet) => (random.next() < 0.4 ? mutate(packet, random) : packet)))
}

function bytesOf(packet: Packet): Buffer {
  try {
    return generate(packet, { protocolVersion: 4 })
  } catch {
    // The library will not write what the specification forbids.
    return Buffer.from([0x32, 4, 0, 1, 0x23, 0])
  }
}

/** Flips bits, cuts, repeats, and lies about lengths. */
export function mutate(bytes: Buffer, random: Random): Buffer {
  const changed = Buffer.from(bytes)
  const place = () => random.integer(0, Math.max(0, changed.length - 1))
  switch (random.integer(0, 5)) {
    case 0:
      for (let i = random.integer(1, 8); i > 0; i--) changed[place()] = random.integer(0, 255)
      return changed
    case 1:
      changed[place()] = (changed[place()] as number) ^ (1 << random.integer(0, 7))
      return changed
    case 2:
      return changed.subarray(0, place())
    case 3:
      changed[1] = random.pick([0, 1, 0x7f, 0x80, 0xff])
      return changed
    case 4:
      // The lengths of strings are two bytes, mostly near the beginning.
      if (changed.length > 4)
        changed.writeUInt16BE(random.pick([0, 1, 0xff, 0xffff]), random.integer(2, Math.min(20, changed.length - 2)))
      return changed
    default:
      return Buffer.concat([changed, changed.subarray(place())])
  }
}
