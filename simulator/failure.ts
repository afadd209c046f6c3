/** Something that its user can put right: one line that says what is wrong and what to do. Exit code 2 means the command line, 1 everything else. */
export class Failure extends Error {
  readonly exitCode: 1 | 2

  constructor(exitCode: 1 | 2, message: string, cause?: unknown) {
    super(message, { cause })
    this.exitCode = exitCode
  }
}
