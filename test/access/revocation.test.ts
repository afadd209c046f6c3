import { expect, test } from 'vitest'
import { createRevocation } from '../../src/access/revocation.ts'

test('a revocation calls each who waits once, and at once who comes too late', () => {
  const revocation = createRevocation()
  const called: string[] = []
  const both = () => called.push('both')
  revocation.onRevoked(both)
  const leave = revocation.onRevoked(both)
  revocation.onRevoked(() => called.push('one'))
  leave()
  leave()
  expect(revocation.revoked).toBe(false)
  revocation.revoke()
  revocation.revoke()
  expect(revocation.revoked).toBe(true)
  expect(called).toEqual(['both', 'one'])
  revocation.onRevoked(() => called.push('late'))
  expect(called).toEqual(['both', 'one', 'late'])
})
