import { expect, test } from 'vitest'
import { createNotes } from '../../broker/sessions/notes.ts'
import { createOutgoing, type Entry, type QueuedPacket } from '../../broker/sessions/outgoing.ts'
import type { Note } from '../../devices/sink.ts'
import { defaultConfig } from '../../src/config.ts'

function open(limits = {}) {
  const noted: Note[] = []
  const sink = { note: (notes: readonly Note[]) => void noted.push(...notes) }
  const outgoing = createOutgoing({ ...defaultConfig(), ...limits }, createNotes(sink as never))
  const message = (text: string) =>
    outgoing.makeMessage({ cmd: 'publish', topic: 'x', payload: Buffer.from(text), qos: 1 } as QueuedPacket)
  return { outgoing, message, noted }
}

test('an identifier that is in flight is not given to another message, however many come', () => {
  const { outgoing, message } = open()
  const queue = outgoing.openQueue('a', false)
  const send = () => {
    outgoing.enqueue(queue, message('text'), 1)
    return outgoing.identify(queue, outgoing.take(queue) as Entry).messageId
  }
  const held = [send(), send()]
  const given = new Set<number>()
  for (let n = 0; n < 70_000; n++) {
    const messageId = send()
    given.add(messageId)
    outgoing.acknowledged(queue, messageId)
  }
  expect(held.filter((id) => given.has(id))).toEqual([])
  expect([Math.min(...given), Math.max(...given), given.size]).toEqual([3, 65_535, 65_533])
})

test('when all together are too large, the largest queue gives, and not whoever gets a message next', () => {
  const { outgoing, message } = open({ maxQueuedTotal: 20_000 })
  const [large, small] = [outgoing.openQueue('large', true), outgoing.openQueue('small', true)]
  for (let n = 0; n < 100; n++) outgoing.enqueue(large, message('z'.repeat(200)), 1)
  for (let n = 0; n < 30; n++) outgoing.enqueue(small, message(String(n)), 1)
  expect(outgoing.packets(small).map(({ payload }) => String(payload))).toEqual(
    Array.from({ length: 30 }, (_, n) => `${n}`),
  )
  expect(outgoing.figures.queuedBytes).toBeLessThanOrEqual(20_000)
  expect(outgoing.figures.queueDropped).toBe(130 - large.length - 30)
})

test('a message that left one queue, and enters another one, is on disk again', () => {
  const { outgoing, message, noted } = open({ maxQueued: 1 })
  const text = message('text')
  const [one, other] = [outgoing.openQueue('one', true), outgoing.openQueue('other', true)]
  outgoing.enqueue(one, text, 1)
  outgoing.enqueue(one, message('newer'), 1)
  outgoing.enqueue(other, text, 1)
  expect(noted.findLast(([key]) => key === `m${text.id}`)?.[1]).not.toBeNull()
})
