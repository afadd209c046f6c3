import { readlinkSync } from 'node:fs'
import { constants, setPriority } from 'node:os'

/**
 * The thread that calls gives way to all other threads, as far as the system can say so of a single one: on Linux, where
 * each thread has a number like a process.
 */
export function giveWay(): void {
  if (process.platform !== 'linux') return
  try {
    const [owner, , thread] = readlinkSync('/proc/thread-self').split('/')
    if (Number(owner) === process.pid) setPriority(Number(thread), constants.priority.PRIORITY_BELOW_NORMAL)
  } catch {
    // Without /proc, it goes with the others.
  }
}
