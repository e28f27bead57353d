/** The variance of attention gradients: what the noise in them is made of. */
package dev.saccade.train.variance;
