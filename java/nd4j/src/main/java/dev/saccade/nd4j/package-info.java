/** Arrays of ND4J as tensors of Saccade, in place. */
package dev.saccade.nd4j;
