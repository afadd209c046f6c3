import { EventEmitter } from 'node:events'
import { expect, test } from 'vitest'
import type { Guest } from '../../broker/doorman.ts'
import { createThrottles } from '../../broker/throttle.ts'
import { defaultConfig } from '../../src/config.ts'

const connectionOf = (identity: string) =>
  ({ conn: new EventEmitter(), visitor: { identity } }) as unknown as Guest & { conn: EventEmitter }

/** Sends that many messages and answers whether more may come at once. */
const sends = (throttle: ReturnType<ReturnType<typeof createThrottles>>, messages: number) =>
  throttle.pace({ bytes: 0, messages, control: 0, waiting: 0 }) === 0

test('who has logged in sends no faster over many connections; where nobody does, each has its own rate', () => {
  // One a second: what comes back during the test is nothing.
  const throttle = createThrottles({ ...defaultConfig(), maxMessageRate: 1 }, {})
  const [first, second] = [connectionOf('device:kitchen'), connectionOf('device:kitchen')]
  expect(sends(throttle(first), 100)).toBe(false)
  expect(sends(throttle(second), 0)).toBe(false)
  expect(sends(throttle(connectionOf('device:hall')), 0)).toBe(true)
  expect(sends(throttle(connectionOf('')), 100)).toBe(false)
  expect(sends(throttle(connectionOf('')), 0)).toBe(true)
  // What is remembered ends with the last connection.
  first.conn.emit('close')
  const third = connectionOf('device:kitchen')
  expect(sends(throttle(third), 0)).toBe(false)
  for (const { conn } of [second, third]) conn.emit('close')
  expect(sends(throttle(connectionOf('device:kitchen')), 0)).toBe(true)
})
