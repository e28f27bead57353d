/**
 * Experiments: many runs that differ in a few values, and what comes out of them over several
 * seeds. A file in YAML says what is compared; runs share the policies that they begin with, are
 * kept in an archive as they end, and go on where they were stopped.
 */
package dev.saccade.train.experiment;
