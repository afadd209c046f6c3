/**
 * What was sent and what of it was acknowledged, so that both can be compared with what a hub stored.
 * 13 bytes a reading, 20 at worst while a device's columns have room to grow.
 */
export interface Ledger {
  /** The same reading may be sent again: it stays one entry. `bad` ones are not expected back. */
  sent(device: number, reading: number, ts: number, fingerprint: number, bad: boolean): void
  acknowledged(device: number, firstReading: number, readings: number): void
  /** Undefined for a device that sent nothing. */
  account(device: number): Account | undefined
}

/** The columns of one device, indexed by reading. Those never sent have no flag. */
export interface Account {
  length: number
  ts: Float64Array
  fingerprints: Uint32Array
  flags: Uint8Array
}

export const wasSent = 1
export const wasAcknowledged = 2
export const wasBad = 4

const firstCapacity = 64
const growth = 1.5

export function createLedger(): Ledger {
  const accounts: Account[] = []

  function open(device: number, reading: number): Account {
    accounts[device] ??= {
      length: 0,
      ts: new Float64Array(firstCapacity),
      fingerprints: new Uint32Array(firstCapacity),
      flags: new Uint8Array(firstCapacity),
    }
    const account = accounts[device]
    account.length = Math.max(account.length, reading + 1)
    if (account.length > account.flags.length) grow(account, Math.ceil(account.length * growth))
    return account
  }

  return {
    sent(device, reading, ts, fingerprint, bad) {
      const account = open(device, reading)
      account.ts[reading] = ts
      account.fingerprints[reading] = fingerprint
      account.flags[reading]! |= bad ? wasSent | wasBad : wasSent
    },
    acknowledged(device, firstReading, readings) {
      const { flags } = open(device, firstReading + readings - 1)
      for (let reading = firstReading; reading < firstReading + readings; reading++) flags[reading]! |= wasAcknowledged
    },
    account: (device) => accounts[device],
  }
}

function grow(account: Account, capacity: number): void {
  const { ts, fingerprints, flags } = account
  account.ts = new Float64Array(capacity)
  account.ts.set(ts)
  account.fingerprints = new Uint32Array(capacity)
  account.fingerprints.set(fingerprints)
  account.flags = new Uint8Array(capacity)
  account.flags.set(flags)
}
