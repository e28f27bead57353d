/** The command line: {@code saccade train | eval | op | info}. */
package dev.saccade.cli;
