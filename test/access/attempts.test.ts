import { expect, test } from 'vitest'
import { createAttempts } from '../../src/access/attempts.ts'

function fails(times: number, attempts: ReturnType<typeof createAttempts>, address: string, identity: string): void {
  for (let n = 0; n < times; n++) attempts.failed(address, identity)
}

test('an identity is slowed after five failures, from whatever address, twice as long each time, up to a minute', () => {
  let now = 0
  const attempts = createAttempts(() => now)
  for (let n = 0; n < 5; n++) {
    expect(attempts.pause(`10.0.0.${n}`, 'device:a')).toBe(0)
    attempts.failed(`10.0.0.${n}`, 'device:a')
  }
  expect(attempts.pause('10.0.1.1', 'device:a')).toBe(1000)
  expect(attempts.pause('10.0.1.1', 'device:b')).toBe(0)
  now += 1000
  expect(attempts.pause('10.0.1.1', 'device:a')).toBe(0)
  attempts.failed('10.0.1.1', 'device:a')
  expect(attempts.pause('10.0.1.2', 'device:a')).toBe(2000)
  fails(20, attempts, '10.0.1.3', 'device:a')
  expect(attempts.pause('10.0.1.2', 'device:a')).toBe(60_000)
})

test('an address is slowed after failures against fifty identities', () => {
  const attempts = createAttempts(() => 0)
  for (let n = 0; n < 49; n++) attempts.failed('10.0.0.1', `device:${n}`)
  expect(attempts.pause('10.0.0.1', 'device:x')).toBe(0)
  attempts.failed('10.0.0.1', 'device:49')
  expect(attempts.pause('10.0.0.1', 'device:x')).toBe(1000)
  expect(attempts.pause('10.0.0.2', 'device:x')).toBe(0)
})

test('one device that tries its old password for ever does not slow down the others of its address', () => {
  const attempts = createAttempts(() => 0)
  fails(1000, attempts, '10.0.0.1', 'device:old')
  expect(attempts.pause('10.0.0.1', 'device:old')).toBeGreaterThan(0)
  expect(attempts.pause('10.0.0.1', 'device:new')).toBe(0)
})

test('success forgives an identity, and time everything', () => {
  let now = 0
  const attempts = createAttempts(() => now)
  fails(5, attempts, '10.0.0.1', 'device:a')
  attempts.succeeded('device:a')
  expect(attempts.pause('10.0.0.1', 'device:a')).toBe(0)
  fails(6, attempts, '10.0.0.1', 'device:b')
  now += 16 * 60_000
  attempts.failed('10.0.0.1', 'device:b')
  expect(attempts.pause('10.0.0.1', 'device:b')).toBe(0)
})

test('what is remembered is bounded', () => {
  const attempts = createAttempts(() => 0)
  fails(5, attempts, '10.0.0.1', 'device:first')
  for (let n = 0; n < 30_000; n++) attempts.failed('10.0.0.2', `device:${n}`)
  expect(attempts.pause('10.0.0.3', 'device:first')).toBe(0)
})
