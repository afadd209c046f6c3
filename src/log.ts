import { type Logger, pino } from 'pino'
import pretty from 'pino-pretty'

/** The log: JSON lines for machines, coloured lines when a person is at the terminal. */
export function createLog(level: string): Logger {
  if (!process.stdout.isTTY) return pino({ level, base: null })
  return pino({ level, base: null }, pretty({ translateTime: 'HH:MM:ss', ignore: 'hostname,pid', sync: true }))
}
