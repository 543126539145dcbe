/**
 * What a command is asked: its words, its options, and which settings.
 */

/** What stood on the command line behind the command. */
export interface Asked {
  readonly words: readonly string[];
  readonly json: boolean;
  readonly settingsPath: string;
  /** True where the path was given, not found. */
  readonly settingsGiven: boolean;
  readonly admin: string | null;
}
