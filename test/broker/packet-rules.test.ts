import { generate, type Packet } from 'mqtt-packet'
import { expect, test } from 'vitest'
import { packetProblem } from '../../broker/packet-rules.ts'

const problemOf = (bytes: Buffer) => packetProblem(bytes, 0, bytes.length)
const text = (value: string | number[]) => {
  const bytes = Buffer.from(value as string)
  return [bytes.length >> 8, bytes.length & 255, ...bytes]
}
const packet = (first: number, ...body: number[]) => Buffer.from([first, body.length, ...body])
const connect = (flags: number, ...fields: number[][]) =>
  packet(0x10, ...text('MQTT'), 4, flags, 0, 60, ...fields.flat())

test('sound packets of every kind pass', () => {
  const packets: Packet[] = [
    { cmd: 'connect', clientId: 'a', protocolVersion: 4, clean: true, keepalive: 1 },
    { cmd: 'connect', clientId: 'a', protocolId: 'MQIsdp', protocolVersion: 3, clean: true, keepalive: 1 },
    {
      ...{ cmd: 'connect', clientId: 'a', protocolVersion: 4, clean: true, username: 'u', password: Buffer.from('p') },
      will: { topic: 't', payload: Buffer.from('x'), qos: 2, retain: true },
    } as Packet,
    { cmd: 'publish', topic: 't', payload: '', qos: 0, dup: false, retain: true },
    { cmd: 'publish', topic: 't', payload: 'x', qos: 2, messageId: 65_535, dup: true, retain: false },
    ...(['puback', 'pubrec', 'pubrel', 'pubcomp'] as const).map((cmd) => ({ cmd, messageId: 1 }) as Packet),
    { cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: 'a', qos: 0 }] },
    { cmd: 'unsubscribe', messageId: 1, unsubscriptions: ['a', '\u00fc/#'] },
    { cmd: 'pingreq' },
    { cmd: 'disconnect' },
  ]
  for (const one of packets) expect(problemOf(generate(one)), JSON.stringify(one)).toBeNull()
  // Refused by Aedes with its return code.
  const newer = generate({ cmd: 'connect', clientId: 'a', protocolVersion: 5, clean: true }, { protocolVersion: 5 })
  expect(problemOf(newer)).toBeNull()
})

test.for<[string, Buffer]>([
  ['a password without a user name', connect(0x42, text('a'), text('p'))],
  ['bytes behind the fields of CONNECT', connect(0x02, text('a'), [1])],
  ['a CONNECT that ends within a field', connect(0x82, text('a'), [0, 9, 1])],
  ['DUP at QoS 0', packet(0x38, ...text('t'))],
  ['QoS 1 without an identifier', packet(0x32, ...text('t'))],
  ['QoS 2 with half an identifier', packet(0x34, ...text('t'), 1)],
  ['identifier 0 in PUBLISH', packet(0x32, ...text('t'), 0, 0)],
  ['identifier 0 in PUBACK', packet(0x40, 0, 0)],
  ['identifier 0 in PUBREL', packet(0x62, 0, 0)],
  ['PUBREC without an identifier', packet(0x50)],
  ['identifier 0 in SUBSCRIBE', packet(0x82, 0, 0, ...text('a'), 1)],
  ['SUBSCRIBE without filters', packet(0x82, 0, 1)],
  ['identifier 0 in UNSUBSCRIBE', packet(0xa2, 0, 0, ...text('a'))],
  ['UNSUBSCRIBE without filters', packet(0xa2, 0, 1)],
  ['UNSUBSCRIBE with broken UTF-8', packet(0xa2, 0, 1, ...text([0x61, 0xff]))],
  ['UNSUBSCRIBE that ends within a filter', packet(0xa2, 0, 1, 0, 9, 1)],
  ['PINGREQ with content', packet(0xc0, 1)],
])('%s is refused', ([, bytes]) => {
  expect(problemOf(bytes)).not.toBeNull()
})
