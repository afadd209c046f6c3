/** Connections, or whatever else there may be only so many of, in all and from one address. */
export interface Slots {
  /** Takes a slot; or says which limit leaves none. */
  take(address: string): 'all' | 'address' | null
  leave(address: string): void
  readonly taken: number
}

export function createSlots(max: number, maxPerAddress: number): Slots {
  const takenBy = new Map<string, number>()
  let taken = 0
  return {
    take(address) {
      const key = networkOf(address)
      const own = takenBy.get(key) ?? 0
      if (taken >= max) return 'all'
      if (own >= maxPerAddress) return 'address'
      takenBy.set(key, own + 1)
      taken++
      return null
    },
    leave(address) {
      const key = networkOf(address)
      const own = takenBy.get(key) ?? 0
      if (own > 1) takenBy.set(key, own - 1)
      else takenBy.delete(key)
      taken--
    },
    get taken() {
      return taken
    },
  }
}

/** Who has one address of IPv6 has all of its network of 64 bits, so those count as one. RFC 4291 §2.5.4 */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped) return mapped
  if (!address.includes(':')) return address
  const [head = '', tail] = address.replace(/%.*/, '').split('::')
  const groups = head === '' ? [] : head.split(':')
  const after = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : 8 - groups.length - after.length
  return [...groups, ...Array.from({ length: Math.max(0, zeros) }, () => '0'), ...after].slice(0, 4).join(':')
}
